"""Samplers: they see a space and what became of earlier proposals, nothing else."""

SAMPLERS = ("tpe", "gp", "random", "exhaustive")
"""Names that `study.Search` accepts: Optuna's three, and the whole space in order."""
