"""Data-free methods, one file a paper."""
