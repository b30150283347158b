"""Where files are kept that only make a start faster: $AUTOTUNE_CACHE, else the user's cache directory."""

import os
from pathlib import Path


def path() -> Path:
    """Safe to delete, at any time."""
    if given := os.environ.get("AUTOTUNE_CACHE"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_path("autotune"))
