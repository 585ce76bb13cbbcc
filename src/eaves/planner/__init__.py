"""Predict what a divided net costs, before anything is deployed."""
