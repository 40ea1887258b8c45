"""Axis groups: which indices of which axes of which tensors have to be cut together."""
