"""Stored outputs of a teacher: sparse probabilities by sample, written once and read many times.

record      what is kept of one sample, and what must hold of it
manifest    what a store of an epoch says of itself
writer      shards, written as they fill, taken up after a crash
reader      records by sample, each block verified once
published   the files of TinyViT's release; published_replay trains on them
"""
