"""Passes: pure rewrites of a Graph, by name and options."""
