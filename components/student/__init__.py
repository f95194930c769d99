"""Steps that train a student."""
