"""Training a supernet or a fixed network: recipe, steps, checkpoints, scores."""
