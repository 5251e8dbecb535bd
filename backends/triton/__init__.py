"""Fused kernels in Triton: a provider of the PyTorch backend, a file each family of kernels.

launch        whether tensors can go to a kernel, and what happens where they cannot
resources     registers, spills and shared memory, read from binaries
soft_labels   the loss against sparse soft labels (TinyViT)

Every kernel stands beside its reference in plain PyTorch, is one or two `torch.library` operators
with a fake and an autograd implementation, and takes all sizes of a network at run time.
"""
