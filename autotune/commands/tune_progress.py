"""The progress of a tuning run on stderr: a bar on a terminal, a line for each problem in a log."""

from typing import TYPE_CHECKING, Any, Self

from autotune.commands import output

if TYPE_CHECKING:
    from autotune.tuner import Progress


class TuneProgress:
    """A context manager; `report` is what `tuner.tune` calls after each trial."""

    def __init__(self, trials: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._trials = trials
        self._screen = output.console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[state]}"),
            console=self._screen, transient=True, disable=not self._screen.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=None, state="")
        self._logged = -1

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.stop()

    def report(self, progress: "Progress") -> None:
        """Show where the run is. A problem that ends early, for its budget, makes the bar jump."""
        op = progress.problem.op
        if not self._screen.is_terminal:
            if progress.index != self._logged:
                output.note(f"tuning {progress.problem.key} ({progress.index + 1} of {progress.of})")
                self._logged = progress.index
            return
        done = progress.index * self._trials + min(progress.trial, self._trials)
        state = f"trial {progress.trial}, best {output.micros(progress.best_ns)} µs"
        if progress.default_ns and progress.best_ns:
            state += f", {output.ratio(progress.default_ns, progress.best_ns)} the default"
        self._bar.update(
            self._task, completed=done, total=progress.of * self._trials, state=state,
            description=f"{op} {progress.index + 1}/{progress.of}",
        )  # fmt: skip
