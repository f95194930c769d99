"""Plays a synthesizer against the student it trains."""
