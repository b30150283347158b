"""How this project starts Python processes: with the safe path, and with the packages that this process runs.

`python -m` and `python -c` put the current folder first on the module search path, where a user's model.py would be
imported instead of ours; `-P` leaves it out. What a checkout that is not installed then lacks, PYTHONPATH adds.
"""

import os
import site
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from kernel_templates.cpu.openmp import wait_briefly

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds our packages: a checkout, or site-packages."""


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules; needs `environment`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment for a Python process that imports our packages. variables: others beside."""
    found = {**os.environ, **(variables or {})}
    wait_briefly(found)
    if not _is_site_packages(ROOT):
        found["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [found.get("PYTHONPATH")])])
    return found


def start(command: Sequence[str], descriptor: int, variables: Mapping[str, str] | None = None) -> subprocess.Popen:
    """Start a process that inherits a descriptor and no standard stream: what candidates print is lost on purpose."""
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(
        command, pass_fds=(descriptor,), stdin=nowhere, stdout=nowhere, stderr=nowhere, env=environment(variables)
    )


def _is_site_packages(folder: Path) -> bool:
    """Whether every Python process of this installation finds what is in it: after the standard library, unlike what
    is on the PYTHONPATH."""
    paths = sysconfig.get_paths()
    known = [paths["purelib"], paths["platlib"], site.getusersitepackages(), *site.getsitepackages()]
    return folder in (Path(path).resolve() for path in known)
