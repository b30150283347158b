"""Samplers: they see a space and what became of earlier proposals, nothing else."""

SAMPLERS = ("climb", "walk", "tpe", "random", "exhaustive")
"""Names that `study.Search` accepts: steps from the best one known with Optuna's TPE between them; steps of one or two
parameters from the best, now and then a mixture or a draw, without a model, for large spaces and quick trials; TPE
alone; Optuna's random sampler; and the whole space in order."""
