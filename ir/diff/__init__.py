"""What is different between two graphs: which nodes are the same, and what became of the others."""
