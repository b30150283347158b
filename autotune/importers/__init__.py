"""Other tools' files, one module a format: recognized by content, read into profiles or tuning results."""
