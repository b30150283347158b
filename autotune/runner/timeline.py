"""When each worker of a tuning run did what: a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.

The format is Chrome's Trace Event Format, complete events ("ph": "X"), times in microseconds.
"""

import json
import threading
import time
from pathlib import Path
from typing import Any


class Timeline:
    """Spans of time on named tracks, from when this was made."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._tracks: dict[str, int] = {}
        self._events: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def add(self, track: str, name: str, begin: float, end: float, **about: Any) -> None:
        """A span; begin, end: as time.monotonic() gives them."""
        with self._lock:
            number = self._tracks.setdefault(track, len(self._tracks) + 1)
            self._events.append(
                {
                    "ph": "X", "pid": 1, "tid": number, "name": name, "ts": round(1e6 * (begin - self._begun)),
                    "dur": round(1e6 * (end - begin)), "args": about,
                }
            )  # fmt: skip

    def write(self, path: Path) -> None:
        """Raises OSError."""
        names = [
            {"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": {"name": track}}
            for track, number in self._tracks.items()
        ]
        path.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": [*names, *self._events]}), encoding="utf-8")
