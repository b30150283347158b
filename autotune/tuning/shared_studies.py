"""Studies that workers share: which one a problem has, what goes into it, and bringing its winners home.

Each problem on each chip and for each objective is a study of its own, so that unlike numbers never mix.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from autotune.samplers.shared_search import Shared, SharedSearch
from autotune.samplers.study import Search
from autotune.tuning import storage_url
from kernel_templates.device import Device
from kernel_templates.problem import Problem
from tuning_db import TuningDB, jsonl
from tuning_db.merge import Added
from tuning_db.records import Objective

WINNER = "winner "  # of a user attribute: then the winner's name; the value is lines of `autotune db export`


@dataclass(frozen=True)
class Studies:
    """The studies of one server."""

    shared: Shared
    url: str

    def join(
        self, search: Search, device: Device, problem: Problem, trials: int | None, objective: Objective
    ) -> SharedSearch:
        """A problem's search together with the other workers that tune it on this chip for the same; trials: of all."""
        return SharedSearch(search, self.shared, name(device, problem, objective), trials)

    def winners(self) -> Iterator[tuple[str, str]]:
        """(study, text) of what workers have published."""
        for study in self.shared.studies():
            for key, value in sorted(study.user_attrs.items()):
                if key.startswith(WINNER):
                    yield study.study_name, str(value)


def name(device: Device, problem: Problem, objective: Objective = Objective.TIME) -> str:
    """Of the study of a problem on a device's chip; what is made small is named unless it is the time."""
    study = f"{device.chip_key} {problem.key} v{problem.template_version}"
    return study if objective is Objective.TIME else f"{study} {objective}"


@contextmanager
def opened(url: str) -> Iterator[Studies]:
    """The server at `url`. Whatever it or the way there does wrong becomes a UserError without the password."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    address = storage_url.parsed(url)
    try:
        shared = Shared(address)
        try:
            yield Studies(shared, address)
        finally:
            shared.close()
    except ImportError as error:
        if "psycopg" not in str(error):
            raise
        raise storage_url.UserError("--storage needs psycopg: ./scripts/setup_env storage") from None
    except (SQLAlchemyError, OptunaError) as error:
        raise storage_url.unusable(address, error) from None


def publish(search: SharedSearch, db: TuningDB, device: Device, problem: Problem) -> None:
    """Leave this problem's current winner on this device for `pull`."""
    found: list[dict[str, Any]] = db.exported(winners_only=True)
    for fact in found:
        if fact["kind"] == "winner" and (fact["device"], fact["problem"]) == (device.fingerprint, problem.key):
            own = [f for f in found if f["kind"] == "device" and f["fingerprint"] == device.fingerprint]
            search.publish(f"{WINNER}{fact['uid']}", json.dumps(list(jsonl.write([*own, fact]))))


def pull(studies: Studies, db: TuningDB) -> Added:
    """Add every winner that was published and makes sense to the database; the answer says which were left out."""
    records: list[dict[str, Any]] = []
    left_out: list[str] = []
    for study, text in studies.winners():
        wrong: list[str] = []
        try:
            records += jsonl.read([str(line) for line in json.loads(text)], study, wrong)
        except (ValueError, TypeError, RecursionError):
            wrong.append("a published winner is no export of autotune")
        left_out += [f"{study}: {reason}" for reason in wrong]
    added = db.add(records)
    added.left_out[:0] = left_out
    return added
