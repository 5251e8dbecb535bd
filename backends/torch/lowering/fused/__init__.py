"""Groups of layers as one function each, in plain PyTorch: little is kept for the backward pass."""
