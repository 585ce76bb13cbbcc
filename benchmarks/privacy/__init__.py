"""Measurements of what hiding costs and what it hides, on faces."""
