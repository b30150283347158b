"""The progress of a tuning run on stderr: a bar on a terminal, a line for each problem in a log."""

import time
from typing import TYPE_CHECKING, Any, Self

from autotune.commands import output

if TYPE_CHECKING:
    from autotune.tuning.tuner_base import Progress


class TuneProgress:
    """A context manager; `report` is what `tuner.tune` calls after each trial."""

    def __init__(self, trials: int | None, budget_s: float | None = None) -> None:
        """The bar counts trials if their number is given, else the seconds of the budget, else nothing."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._trials, self._budget_s, self._begun = trials, budget_s, time.monotonic()
        self._screen = output.console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[state]}"),
            console=self._screen, transient=True, disable=not self._screen.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=None, state="")
        self._logged = (0, -1)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.stop()

    def tell(self, message: str) -> None:
        """A line for the reader, above the bar."""
        if self._screen.is_terminal:
            self._screen.print(message)
        else:
            output.note(message)

    def report(self, progress: "Progress") -> None:
        """Show where the run is. A problem that ends early, for its budget, makes the bar jump."""
        op, place = progress.problem.op, (progress.stage, progress.index)
        how = "tuning" if progress.stage == 1 else "tuning in context"
        if not self._screen.is_terminal:
            if place != self._logged:
                output.note(f"{how} {progress.problem.key} ({progress.index + 1} of {progress.of})")
                self._logged = place
            return
        state = f"trial {progress.trial}, best {output.micros(progress.best_ns)} µs"
        if progress.default_ns and progress.best_ns:
            state += f", {output.ratio(progress.default_ns, progress.best_ns)} the default"
        done, total = self._done(progress)
        self._bar.update(
            self._task, completed=done, total=total, state=state,
            description=f"{op} {progress.index + 1}/{progress.of}" + (" in context" if progress.stage == 2 else ""),
        )  # fmt: skip

    def _done(self, progress: "Progress") -> tuple[float, float | None]:
        if self._trials is not None and progress.stage == 1:
            return progress.index * self._trials + min(progress.trial, self._trials), progress.of * self._trials
        return time.monotonic() - self._begun, self._budget_s
