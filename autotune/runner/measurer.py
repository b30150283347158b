"""The process that measures on a GPU: a worker (`worker`) for which the GPU's context starts before Python imports what
is needed there. Run as `python -m autotune.runner.measurer FD cuda:0`.

Of a tuning run it is ready last: it imports what compilers do and waits for CUDA besides. So it does not warm a
compiler up, which it needs only for the kernel that reads memory, and not at all where that was compiled before.
"""

import signal
import sys

from autotune.runner.process_group import die_with_parent
from kernel_templates.cuda import early, machine


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    early.begin_context(machine.index_of(sys.argv[2]))
    from autotune.runner import preload, worker

    preload.all_modules()
    worker.serve_pipe(int(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    main()
