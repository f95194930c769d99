"""Trains a student on a synthetic set."""
