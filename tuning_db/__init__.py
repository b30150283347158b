"""What was tuned where, and how it was found: one SQLite file."""
