"""Trains an offline method's synthesizer."""
