"""Samplers: they see a space and what became of earlier proposals, nothing else."""

SAMPLERS = ("pool", "climb", "walk", "tpe", "random", "exhaustive")
"""Names that `study.Search` accepts: a model of the times of all valid configurations, "walk" where they are too many
to list; steps from the best one known with Optuna's TPE between them; steps of one or two
parameters from the best, now and then a mixture or a draw, without a model, for large spaces and quick trials; TPE
alone; Optuna's random sampler; and the whole space in order."""
