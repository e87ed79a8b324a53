"""For tests: real servers, started by ourselves and gone when the test run ends."""
