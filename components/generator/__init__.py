"""Steps that train a generator."""
