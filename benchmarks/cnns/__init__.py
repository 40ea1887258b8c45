"""Small convolutional networks of every family, and an analysis of them that is only numbers."""
