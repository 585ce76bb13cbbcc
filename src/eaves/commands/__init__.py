"""The command line: a module for each command, with its flags; main.py finds and runs them."""
