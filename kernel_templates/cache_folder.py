"""Where files are kept that only make a start faster: $AUTOTUNE_CACHE, else the user's cache directory."""

import functools
import os
from pathlib import Path


def path() -> Path:
    """Safe to delete, at any time."""
    given = os.environ.get("AUTOTUNE_CACHE")
    return Path(given) if given else _of_user()


@functools.cache
def _of_user() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_path("autotune"))
