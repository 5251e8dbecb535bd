"""The main job, from a space to an exported network, and what it found."""
