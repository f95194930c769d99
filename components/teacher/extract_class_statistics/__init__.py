"""Measures the teacher's BatchNorm moments of each class."""
