"""Steps that score a student."""
