"""Reads the teacher's BatchNorm moments."""
