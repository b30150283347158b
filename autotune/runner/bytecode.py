"""Python's bytecode of large packages, kept in the user's cache where their installation has none.

An installer that does not compile (uv by default, or any in an image that sets PYTHONDONTWRITEBYTECODE) leaves that to
every process: importing torch then takes 9 s instead of 1 (docs/log.md), and a tuning run starts several.
"""

import os
import sys
from importlib.util import cache_from_source, find_spec
from pathlib import Path

import platformdirs


def keep(package: str = "torch") -> None:
    """If `package` was installed without bytecode, have this process and those it starts keep what they compile.

    A prefix that is set already is left alone. A folder that cannot be written is no error: Python then goes
    on as before."""
    found = find_spec(package)
    if sys.pycache_prefix or found is None or not found.origin or Path(cache_from_source(found.origin)).exists():
        return
    folder = platformdirs.user_cache_path("autotune", appauthor=False) / "bytecode"
    sys.pycache_prefix, sys.dont_write_bytecode = str(folder), False
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
