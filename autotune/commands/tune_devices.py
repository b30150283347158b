"""`autotune tune --devices all`: a worker for each GPU, each an `autotune tune` of its own on one shared study."""

import subprocess

from autotune import UserError
from autotune.commands import output
from autotune.runner.python_process import environment, python_command

STORAGE = "AUTOTUNE_STORAGE"


def gpus() -> list[str]:
    """Names of the GPUs here that can be used. Raises UserError when there is none."""
    from kernel_templates.cuda import machine

    found = []
    for index in range(machine.count()):
        try:
            machine.check(index)
            found.append(f"cuda:{index}")
        except machine.DeviceError:
            continue
    if not found:
        raise UserError("--devices all: no GPU can be used here; autotune devices says why")
    return found


def run(devices: list[str], words: list[str], storage: str, program: tuple[str, ...] = ()) -> int:
    """Start `autotune WORDS --device NAME` for each and wait. One that fails does not stop the others. Returns the
    number of failures. The server's URL travels in the environment: a command line is there for all to see."""
    command, variables = program or python_command("autotune"), environment({STORAGE: storage})
    workers = {
        name: subprocess.Popen([*command, *words, "--device", name], env=variables, stdout=subprocess.DEVNULL)
        for name in devices
    }
    failed = 0
    try:
        for name, worker in workers.items():
            if code := worker.wait():
                failed += 1
                output.note(f"the worker of {name} ended ({code}); the others went on")
    except KeyboardInterrupt:
        for worker in workers.values():  # they have got the signal too, and keep what they found
            worker.wait()
        raise
    return failed
