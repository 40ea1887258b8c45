"""What a compile leaves: the artifact, its manifest, the report, one screen of text."""
