"""The process that measures on a GPU as a tuning run begins it, before there is a worker pool.

Run as `python -m autotune.runner.measurer FD TARGET`. The GPU's context starts while Python imports; then it serves as
`autotune.runner.worker` does.
"""

import signal
import sys

from autotune.runner import preload
from autotune.runner.process_group import die_with_parent
from kernel_templates.cuda import early, machine


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    early.begin_context(machine.index_of(sys.argv[2]))
    preload.templates()
    from autotune.runner import worker

    worker.main()


if __name__ == "__main__":
    main()
