"""Searches in a folder: engines over scores, and engines that train while they search."""
