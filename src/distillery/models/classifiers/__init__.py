"""Classifiers for small images, one family a file."""
