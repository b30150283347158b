"""What GPUs did over time, as arrays: a trace may have a hundred thousand rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tuning_db.profile_records import HostWait, Range, RowKind

KINDS = (RowKind.KERNEL, RowKind.GRAPH, RowKind.COPY, RowKind.FILL)
NEVER = -1 << 63  # ns, where the time of a call is not known
UNKNOWN = -1  # in arrays, where a row has no such value


@dataclass(frozen=True, eq=False)
class Trace:
    """Every kernel, graph, copy and fill of one profile that has a start and a duration, ordered by start, then place.

    One value a row in every array. kind: uint8, place in KINDS; name: int32, place in `names`; start_ns, duration_ns:
    int64, on the profile's clock; device, process, stream, bytes: int64, range: int32, place in `ranges`, direction:
    int32, place in `directions`, each UNKNOWN where a row has none; place: int64, `KernelLaunch.place` of the row.
    called_ns: int64, when the host called the launch, NEVER where that is unknown. devices: names of the GPUs by
    number; waits: calls in which the host waited for a GPU.
    """

    names: tuple[str, ...]
    directions: tuple[str, ...]
    devices: Mapping[int, str]
    ranges: tuple[Range, ...]
    kind: np.ndarray
    name: np.ndarray
    start_ns: np.ndarray
    duration_ns: np.ndarray
    device: np.ndarray
    process: np.ndarray
    stream: np.ndarray
    range: np.ndarray
    bytes: np.ndarray
    direction: np.ndarray
    place: np.ndarray
    called_ns: np.ndarray
    waits: tuple[HostWait, ...] = ()

    def __len__(self) -> int:
        return len(self.start_ns)

    @cached_property
    def end_ns(self) -> np.ndarray:
        """int64."""
        return self.start_ns + self.duration_ns
