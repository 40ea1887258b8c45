"""Scales per channel: which layers share them, and where they can go."""
