"""Running a model on a GPU; imports Triton, so it is imported only when a GPU is asked for."""
