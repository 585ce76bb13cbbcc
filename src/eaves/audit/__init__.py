"""Attacks: attempts to learn from what leaves the edge what should stay there."""
