"""The tuner: searches kernel templates for a problem on a device, proves the winner and records it.

`load` and `tune` are what a program calls. Importing this imports nothing else: the two import what they need.
"""

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.tuning.tuner_base import Tuned
    from model.engine import Model
    from tuning_db import TuningDB

__all__ = ["UserError", "load", "tune"]

BESIDE = ("kernel_templates", "tuning_db", "model")  # our other packages, each after those that it imports


class UserError(Exception):
    """An error that a user can cause. The message is one line: what is wrong and what to do about it."""


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    *,
    db: "str | os.PathLike[str] | TuningDB | None" = None,
    context: int | None = None,
    tuned: bool = True,
    threads: int | None = None,
    nvtx: bool = False,
    gpu_memory: int | None = None,
    cache: str = "f16",
) -> "Model":
    """A GGUF model on a device, with the best kernels known for it.

    device: "cpu", "cuda" or "cuda:N"; db: where winners are looked up, a database or its path (None: the file that
    the command line uses); context: positions that the KV cache holds (None: 4096, or the model's own if less);
    tuned=False runs the templates' defaults; threads: at most, on the CPU; nvtx: mark a GPU's calls for a profiler;
    gpu_memory: bytes that a GPU's weights, cache and buffers may take (None: what is free); experts that do not fit
    stay in host memory; cache: format of the KV cache, "f16" or, on a GPU, "q8_0", of 8 bits.

    The model's `generate(text, tokens)` yields str (speculate="ngram": faster where the text quotes its prompt), its
    `logits(ids)` is float32 [tokens, vocab], `close()` ends it.
    Raises model.errors.ModelError for the file or the request, UserError for the device, tuning_db.DatabaseError.
    """
    _import_own_packages()
    from autotune.commands import options
    from model.engine import load as load_model
    from model.engine import parse_device
    from tuning_db import TuningDB, open_db

    backend, index = parse_device(device)
    options.require(backend if backend == options.CPU else f"{backend}:{index}")

    def opened(database: TuningDB) -> "Model":
        return load_model(
            path,
            device,
            db=database,
            context=context,
            tuned=tuned,
            threads=threads,
            nvtx=nvtx,
            gpu_memory=gpu_memory,
            cache=cache,
        )

    if isinstance(db, TuningDB):
        return opened(db)
    with open_db(None if db is None else Path(db), readonly=True) as database:
        return opened(database)


def tune(
    path: str | os.PathLike[str],
    device: str = "cpu",
    *,
    db: "str | os.PathLike[str] | TuningDB | None" = None,
    trials: int | None = None,
    budget: float | None = None,
    ops: Sequence[str] = (),
    widths: Sequence[str] = ("decode", "prompt"),
    context: int | None = None,
    sampler: str = "pool",
    seed: int = 0,
    cache: str = "f16",
) -> "list[Tuned]":
    """Search a model's kernels on a device and keep the winners; the winners, on a GPU also those in their layers.

    device: "cpu", "cuda" or "cuda:N"; db: where they are kept (None: the file that the command line uses); trials: a
    problem's configurations, those of earlier runs included; budget: seconds for all problems together, 0 for no limit
    (None for either: as `autotune tune`); ops: names of the operations to tune (none: all); widths: "decode" for one
    token at a time, "prompt" for many of one text, "batch" for one of each of several texts; context: tokens that a
    GPU's attention is tuned up to; cache: the format of the KV cache that it reads, as of `load`. Each trial is in the
    database when it is made: KeyboardInterrupt loses none.

    Raises UserError, also when no configuration of a problem works, model.errors.ModelError for the file,
    tuning_db.DatabaseError.
    """
    _import_own_packages()
    from autotune.commands import options
    from autotune.commands import tune as command
    from autotune.samplers import SAMPLERS
    from autotune.tuning.tuner_base import TuneSettings
    from model.engine import parse_device
    from tuning_db import TuningDB, open_db

    if sampler not in SAMPLERS:
        raise UserError(f"no sampler is called {sampler!r}; there are {', '.join(SAMPLERS)}")
    if isinstance(widths, str) or not widths or (unknown := [w for w in widths if w not in options.WIDTHS]):
        wrong = repr(widths) if isinstance(widths, str) or not widths else repr(unknown[0])
        raise UserError(f"widths: {wrong} is no list of {', '.join(options.WIDTHS)}; give some of them")
    for name, value, least in (("trials", trials, 1), ("budget", budget, 0), ("context", context, 1)):
        if value is not None and not value >= least:
            raise UserError(f"{name}={value} makes no sense; give {least} or more")
    if cache not in options.CACHES:
        raise UserError(f"cache={cache!r} is not known; give {' or '.join(options.CACHES)}")
    backend, index = parse_device(device)
    device = backend if backend == options.CPU else f"{backend}:{index}"
    options.check_cache(cache, device)
    options.require(device)
    wanted = command.model_problems(Path(path), tuple(ops), device, context, tuple(widths), cache)
    trials, budget_s = command.limits(device, trials, budget)
    settings = TuneSettings(trials, budget_s, sampler, seed)
    if isinstance(db, TuningDB):
        return command.search(wanted, db, device, settings)
    with open_db(None if db is None else Path(db), readonly=False) as opened:
        return command.search(wanted, opened, device, settings)


def _import_own_packages() -> None:
    """The packages beside this one from where this one is: a model.py in the user's folder does not stand for ours.

    Raises UserError when a foreign module of such a name is imported already: there can be one of a name.
    """
    root = Path(__file__).resolve().parent.parent
    for name in BESIDE:
        known = sys.modules.get(name)
        if known is None:
            spec = importlib.machinery.PathFinder.find_spec(name, [str(root)])
            if spec is None or spec.loader is None:
                raise UserError(f"{root} has no package {name}; install autotune again")
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
        elif root / name not in map(Path, getattr(known, "__path__", ())):
            where = getattr(known, "__file__", None) or "this program"
            raise UserError(f"{where} is imported as {name}, which is autotune's own name; give your module another")
