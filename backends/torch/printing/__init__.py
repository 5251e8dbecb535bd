"""Readable sources that need torch alone: of one network, and of a whole supernet."""
