"""What was found, for people and for programs: a table, JSON, and a page."""
