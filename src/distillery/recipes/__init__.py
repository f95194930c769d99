"""Recipes: the schema and the presets."""
