"""Tiny random transformers of many families, exported by PyTorch: what breadth is shown on."""
