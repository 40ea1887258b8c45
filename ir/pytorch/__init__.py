"""The front door for PyTorch modules and exported programs."""
