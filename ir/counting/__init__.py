"""What a graph holds and does: parameters, bytes, operations."""
