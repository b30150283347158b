"""The same problem in two profiles of `autotune profile`: what it ran with, and its times."""

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.profiling import measured_times
from tuning_db import profiles
from tuning_db.profile_records import KernelLaunch
from tuning_db.reading import Reader
from tuning_db.records import Measurement

ROLES = ("winner", "default")
"""What a problem runs with, where the database has that: its winner, else its template's default."""


@dataclass(frozen=True)
class TwoTimes:
    """One problem. since: the earlier report's name; before, after: times of what it ran with."""

    problem: str
    since: str
    before: Measurement
    after: Measurement


def since_last(db: Reader, number: int) -> list[TwoTimes]:
    """The problems of the profile with this id that were timed before on the same GPU, with the latest time before it.

    Raises KeyError if there is no such profile.
    """
    about = profiles.provenance(db, number)
    found = []
    for problem, after in _times(db, number).items():
        for earlier in reversed([one for one in profiles.of_problem(db, problem) if one < number]):
            its = profiles.provenance(db, earlier)
            if its.format != measured_times.FORMAT or its.chip != about.chip:
                continue
            if (before := _times(db, earlier).get(problem)) is not None:
                found.append(TwoTimes(problem, measured_times.title(its), before, after))
                break
    return found


def chosen_role(launches: Iterable[KernelLaunch], problem: str) -> str | None:
    """The role of the launches of a profile that a problem ran with; None where it has none of either."""
    there = {launch.role for launch in launches if launch.problem == problem}
    return next((role for role in ROLES if role in there), None)


def _times(db: Reader, number: int) -> dict[str, Measurement]:
    """By problem, of what it ran with."""
    launches = profiles.load(db, number).launches
    found = {}
    for problem in dict.fromkeys(launch.problem for launch in launches if launch.problem):
        role = chosen_role(launches, problem)
        timed = [measured_times.measurement(x) for x in launches if x.problem == problem and x.role == role]
        if timed and timed[0] is not None:
            found[problem] = timed[0]
    return found
