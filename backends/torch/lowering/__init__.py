"""A graph as fx modules: a function a block, rules an op, fused groups, index tables."""
