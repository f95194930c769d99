"""Registers the student as a model version."""
