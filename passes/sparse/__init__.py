"""What puts zeros into weights: which layers can have them, numbers, and orders of channels."""
