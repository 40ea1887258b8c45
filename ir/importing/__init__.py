"""From a file to one graph in one form: read, bounded, checked, mended, normalised."""
