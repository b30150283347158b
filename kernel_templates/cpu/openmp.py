"""How the OpenMP threads of torch wait: briefly, because other processes may need the cores."""

import os
from collections.abc import MutableMapping

WAITING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0"}
"""GNU's runtime counts spins (these take about 0.1 ms), Intel's and LLVM's milliseconds."""


def wait_briefly(variables: MutableMapping[str, str] = os.environ) -> None:
    """Set what an OpenMP runtime reads when it is loaded, so call this before torch is imported. A waiting policy of
    the user's own stays."""
    if "OMP_WAIT_POLICY" not in variables:
        for name, value in WAITING.items():
            variables.setdefault(name, value)
