"""Contenders of `spacelang bench`: what builds them, and the process that each of them runs in."""
