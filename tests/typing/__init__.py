"""What type checkers must make of the public interface; checked, never run."""
