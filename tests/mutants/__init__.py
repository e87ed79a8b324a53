"""Mutants: single-line defects of the library, each of which a test must kill."""
