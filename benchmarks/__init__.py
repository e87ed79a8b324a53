"""What a scope costs, side by side with the least it could cost. Run: `python -m benchmarks`."""
