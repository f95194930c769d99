"""Scores a student beside its teacher."""
