"""Samplers: they see a space and what became of earlier proposals, nothing else."""

SAMPLERS = ("climb", "tpe", "random", "exhaustive")
"""Names that `study.Search` accepts: steps from the best one known with Optuna's TPE between them, TPE alone, Optuna's
random sampler, and the whole space in order."""
