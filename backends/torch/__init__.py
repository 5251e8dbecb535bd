"""The PyTorch backend: a Graph as a supernet, a standalone network or printed source."""
