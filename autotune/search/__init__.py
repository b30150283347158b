"""Samplers: they see a space and what became of earlier proposals, nothing else."""

SAMPLERS = ("tpe", "random", "exhaustive")
"""Names that `study.Search` accepts: Optuna's two, and the whole space in order."""
