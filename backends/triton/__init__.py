"""Fused kernels in Triton: a provider of the PyTorch backend, a file each family of kernels.

launch        whether tensors can go to a kernel, and what happens where they cannot
resources     registers, spills and shared memory, read from binaries
soft_labels   the loss against sparse soft labels (TinyViT)
attention     relative positions: iRPE, AutoFormer, offsets and shifted windows
mixed_attention  the same, heads mixed before and after the softmax (MiniViT)
mixture       a weighted sum of candidates, and gradients of the weights (CDARTS)
mlp           layer norm, linear and GELU on slices of shared weights (AutoFormer)
depthwise     depthwise convolution, batch norm, activation, squeeze-excite (Cream)
relations     how queries, keys and values relate, against a teacher (MiniViT)
cascade       cascaded group attention of a window (EfficientViT)
cascade_training  the same with norms of the batch

Every kernel stands beside its reference in plain PyTorch, is one or two `torch.library` operators
with a fake and an autograd implementation, and takes all sizes of a network at run time.
"""
