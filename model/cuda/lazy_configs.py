"""Configurations that no first token waits for: found when a model is loaded, proved when first used.

They are those of passes over many tokens and of layers at longer contexts. A model has a hundred such problems, most of
which no conversation ever needs, and proving one takes up to a second. So a configuration of the database is proved on
this GPU before the first program that runs it, unless it was before.
"""

from collections.abc import Callable, Mapping

from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from model.kernel_choices import Choice, Refusal
from tuning_db.records import Source


class LazyConfigs:
    """By problem. choices: what the database has for each, not proved yet; one that is refused gives way to its space's
    default, and so does the lack of one."""

    def __init__(self, choices: Mapping[Problem, Choice], space: Callable[[Problem], Space], refusal: Refusal):
        self.choices = dict(choices)
        """As far as they are decided, what is run."""
        self._space, self._refusal = space, refusal
        self._decided: dict[Problem, Config] = {}

    def __call__(self, problem: Problem) -> Config:
        if problem not in self._decided:
            self._decided[problem] = self._decide(problem)
        return self._decided[problem]

    def _decide(self, problem: Problem) -> Config:
        default, choice = self._space(problem).default, self.choices.get(problem)
        if choice is None or choice.config == default:
            return default
        why = self._refusal(problem, choice.config)
        if why is None:
            return choice.config
        self.choices[problem] = Choice(default, Source.DEFAULT, f"{choice.detail} is refused: {why}")
        return default
