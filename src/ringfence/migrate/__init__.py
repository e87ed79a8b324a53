"""Moves a code base from the two older context classes onto ringfence: `ringfence migrate`."""
