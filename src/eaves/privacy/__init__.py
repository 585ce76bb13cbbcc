"""Bounds, noise, where the noise comes from, and what a release costs."""
