"""Runs from a configuration to a record: one config, one function, one bundle."""
