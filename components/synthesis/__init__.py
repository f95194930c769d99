"""Steps that make a synthetic set."""
