"""Random trials: each is a module that anyone can run, and that a test runs."""
