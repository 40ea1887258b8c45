"""What a compile would do, without doing it."""
