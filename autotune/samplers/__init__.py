"""Samplers: they see a space and what became of earlier proposals, nothing else."""

SAMPLERS = ("pool", "tpe", "gp", "cmaes", "random", "exhaustive")
"""Names that `study.Search` accepts: our own, a model of the times of all valid configurations; Optuna's TPE, Gaussian
process and CMA-ES, each proposal taken to the nearest valid one that is new; any, each as likely as the others; and the
whole space in order."""
