"""Ends a command on SIGTERM and SIGHUP (a closed terminal or ssh) as Ctrl-C does: what was found so far is kept."""

import signal
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ended(KeyboardInterrupt):
    """The process is asked to end, by more than an interrupted answer. number: the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def install() -> None:
    """For the main thread of the command line. A signal that is ignored, as under nohup, stays so."""
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    for other in ENDING:  # a second one must not break off the keeping
        signal.signal(other, signal.SIG_IGN)
    raise Ended(number)
