"""Complete programs that show ringfence at work; run them from the repository's root."""
