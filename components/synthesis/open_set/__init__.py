"""Draws a synthetic set from a synthesizer."""
