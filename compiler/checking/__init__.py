"""Whether an edited region computes its reference, on a region of the graph alone."""
