"""Resolves the recipe once and hands every step its section."""
