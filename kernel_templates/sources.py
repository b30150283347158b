"""A digest over the sources of all kernels: part of the name of everything on disk that follows from them."""

import functools
import hashlib
from pathlib import Path


def digest() -> str:
    """Of every file of this package, for a kernel may inline any of them."""
    return of_folder(Path(__file__).parent)


@functools.cache
def of_folder(folder: Path) -> str:
    """Of every Python file in a folder and below."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("**/*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()


@functools.cache
def of_file(name: str) -> str:
    """Of the file that a kernel stands in, which may lie outside this package; its name where it cannot be read."""
    try:
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()
    except OSError:
        return name
