"""Where files are kept that only make a start faster: $AUTOTUNE_CACHE, else the user's cache directory."""

import contextlib
import functools
import os
from pathlib import Path


def path() -> Path:
    """Safe to delete, at any time."""
    given = os.environ.get("AUTOTUNE_CACHE")
    return Path(given) if given else _of_user()


def write(file: Path, data: bytes) -> None:
    """Write a file whole or not at all: processes, threads and machines that write the same one side by side never see
    half of it. A folder that cannot be written costs time, nothing else."""
    import tempfile

    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f"{file.stem}.", delete=False) as unfinished:
            try:
                unfinished.write(data)
                unfinished.flush()
                os.replace(unfinished.name, file)
            except BaseException:
                os.unlink(unfinished.name)
                raise


@functools.cache
def _of_user() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_path("autotune"))
