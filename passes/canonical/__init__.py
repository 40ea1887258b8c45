"""The rules of the canonical form, by what they look at."""
