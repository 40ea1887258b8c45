"""Pages that people look at: of a compile, of a difference, of one model; each is one file."""
