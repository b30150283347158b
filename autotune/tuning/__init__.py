"""The tuning loop: from a model's problems on a device to verified winners in the database."""
