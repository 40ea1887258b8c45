"""What turns layers into 8-bit ones: which, and the graph with integers in it."""
