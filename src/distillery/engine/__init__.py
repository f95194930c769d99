"""Training loops that know no method by name."""
