"""Types and shapes of values: inferred, bound to numbers, kept true behind an edit."""
