"""One module per partner; each imports its partner and is imported by name."""
