"""Tensors and files: where the bytes of weights lie, how they are read, hashed and written."""
