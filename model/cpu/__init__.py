"""Running a model on the processor."""
