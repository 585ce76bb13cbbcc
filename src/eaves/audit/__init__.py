"""Measured claims: rates with their intervals and chance levels."""
