"""Optimisation pieces shared by methods."""
