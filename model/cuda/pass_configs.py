"""The configurations that passes over many tokens run with: found when a model is loaded, proved when first used.

A model has a hundred problems of passes, most of which no conversation ever needs; proving one takes up to a second. So
a configuration of the database is proved on this GPU before the first pass that runs it, unless it was before.
"""

from collections.abc import Callable, Mapping

from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from model.kernel_choices import Choice, Refusal


class PassConfigs:
    """By problem. choices: what the database has for each, not proved yet; one that is refused gives way to its space's
    default, and so does the lack of one."""

    def __init__(self, choices: Mapping[Problem, Choice], space: Callable[[Problem], Space], refusal: Refusal):
        self._choices, self._space, self._refusal = choices, space, refusal
        self._decided: dict[Problem, Config] = {}

    def __call__(self, problem: Problem) -> Config:
        if problem not in self._decided:
            self._decided[problem] = self._decide(problem)
        return self._decided[problem]

    def _decide(self, problem: Problem) -> Config:
        default, choice = self._space(problem).default, self._choices.get(problem)
        if choice is None or choice.config == default or self._refusal(problem, choice.config) is not None:
            return default
        return choice.config
