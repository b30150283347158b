"""Matches the launches of a profile to our problems and configurations.

A kernel is known by its name, its grid and its block. Which ones a problem launches with its winner and its default is
worked out in a process of its own (autotune.profiling.kernel_table), since that needs Triton; and only if the profile
has kernels of our names at all. Launches that several problems or configurations could have made stay unjoined.
"""

import functools
import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import kernel_templates
from autotune.profiling.kernel_key import NEEDED, KnownKernel
from autotune.runner.python_process import environment, python_command
from tuning_db.profile_records import Columns, KernelLaunch, Metrics, Profile
from tuning_db.reading import Reader

TIMEOUT_S = 120
_KERNEL = re.compile(r"^@triton\.jit\b.*\ndef (\w+)", re.MULTILINE)
Key = tuple[str, tuple[int, int, int] | None, tuple[int, int, int] | None]


def joined(profile: Profile, db: Reader) -> Profile:
    """The profile with problem, config and role on the launches that can be told."""
    open_ = {launch.kernel for launch in profile.launches if launch.problem is None and launch.grid is not None}
    if not any(short_name(kernel) in our_names() for kernel in open_):
        return profile
    return with_known(profile, _of_database(db))


def with_recorded(profile: Profile, kernels: Sequence[KnownKernel]) -> Profile:
    """Matches a report whose launches are known in their order."""
    launches, at = [], 0
    for launch in profile.launches:
        match = next((i for i in range(at, len(kernels)) if _key(launch) == _key_of(kernels[i])), None)
        if match is None:
            launches.append(launch)
            continue
        launches.append(_assigned(launch, kernels[match]))
        at = match + 1
    return replace(profile, launches=_with_needed(launches))


def with_known(profile: Profile, kernels: Iterable[KnownKernel]) -> Profile:
    """Join by name and geometry alone."""
    found: dict[Key, list[KnownKernel]] = {}
    for kernel in kernels:
        found.setdefault(_key_of(kernel), []).append(kernel)
    launches = [_told(launch, found.get(_key(launch), [])) for launch in profile.launches]
    return replace(profile, launches=_with_needed(launches))


def short_name(kernel: str) -> str:
    """The function's name in what the tools write: "void copy<float>(float *)" is "copy"."""
    return kernel.partition("(")[0].partition("<")[0].split()[-1] if kernel.strip() else ""


@functools.cache
def our_names() -> frozenset[str]:
    """Names of every Triton kernel of the templates, read from their sources: importing them would need Triton."""
    root = Path(kernel_templates.__file__).parent
    return frozenset(name for path in root.rglob("*.py") for name in _KERNEL.findall(path.read_text()))


def _of_database(db: Reader) -> list[KnownKernel]:
    """The kernels of every problem that has a winner on a GPU, with it and with the default. None without Triton."""
    calls = [
        {
            "problem": stored.winner.problem,
            "config": dict(stored.winner.config),
            "capability": stored.device.capability,
            "units": stored.device.units,
        }
        for stored in db.winners()
        if stored.device.backend == "cuda"
    ]
    if not calls:
        return []
    command, asked = python_command("autotune.profiling.kernel_table"), json.dumps(calls)
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment())
    return [KnownKernel.parse(row) for row in json.loads(done.stdout)] if done.returncode == 0 else []


def _told(launch: KernelLaunch, candidates: Sequence[KnownKernel]) -> KernelLaunch:
    """Joined if one problem and configuration fits; a winner that is the default counts as the winner."""
    if launch.problem is not None or not candidates:
        return launch
    distinct = {(c.problem, json.dumps(c.config, sort_keys=True)) for c in candidates}
    if len(distinct) > 1:
        return launch
    return _assigned(launch, min(candidates, key=lambda c: c.role != "winner"))


def _assigned(launch: KernelLaunch, kernel: KnownKernel) -> KernelLaunch:
    metrics = launch.metrics
    if kernel.bytes_needed and NEEDED not in metrics.columns.places:
        columns = _needed_columns(metrics.columns)
        metrics = Metrics(columns, np.append(metrics.numbers, float(kernel.bytes_needed)), metrics.texts)
    return replace(launch, problem=kernel.problem, config=dict(kernel.config), role=kernel.role, metrics=metrics)


def _with_needed(launches: Sequence[KernelLaunch]) -> tuple[KernelLaunch, ...]:
    """All with the same columns: a profile has one list of them."""
    if not any(NEEDED in launch.metrics.columns.places for launch in launches):
        return tuple(launches)
    return tuple(
        launch
        if NEEDED in launch.metrics.columns.places
        else replace(
            launch,
            metrics=Metrics(
                _needed_columns(launch.metrics.columns), np.append(launch.metrics.numbers, np.nan), launch.metrics.texts
            ),
        )
        for launch in launches
    )


@functools.lru_cache(maxsize=8)
def _needed_columns(columns: Columns) -> Columns:
    return Columns((*columns.names, NEEDED), (*columns.units, "byte"))


def _key(launch: KernelLaunch) -> Key:
    return short_name(launch.kernel), launch.grid, launch.block


def _key_of(kernel: KnownKernel) -> Key:
    return kernel.kernel, kernel.grid, kernel.block
