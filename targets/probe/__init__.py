"""Measuring this machine: small graphs run in the runtime, and how long they take."""
