"""Numerics of the passes: plain functions on arrays that know no graph."""
