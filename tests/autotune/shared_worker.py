"""One worker on a shared study over a made-up recorded space."""

import time
from pathlib import Path

from autotune.samplers.shared_search import Shared, SharedSearch
from autotune.samplers.study import Search
from kernel_templates.space import Config, Constraint, Parameter, Space

SPACE = Space(
    (
        Parameter("tile", (16, 32, 64, 128, 256, 512), 64, "rows of a tile"),
        Parameter("warps", (1, 2, 4, 8), 4, "warps"),
        Parameter("stages", (1, 2, 3, 4, 5), 1, "loads in flight"),
        Parameter("split", (1, 2, 4, 8, 16), 1, "parts of the sum"),
    ),
    (
        Constraint("shared memory", "a tile's loads in flight must fit", lambda c: c["tile"] * c["stages"] <= 1024),
        Constraint("wide", "the widest tile loads ahead", lambda c: c["tile"] < 512 or c["stages"] > 1),
    ),
)


def seconds(config: Config) -> float | None:
    """The record: exact, a valley with ripples; some do not work."""
    if config["tile"] == 512 and config["warps"] == 1:
        return None
    tile, warps = SPACE.parameters[0].values.index(config["tile"]), SPACE.parameters[1].values.index(config["warps"])
    ripple = hash((config["tile"], config["warps"], config["stages"], config["split"])) % 97 / 1000
    far = (tile - 3) ** 2 + 0.5 * (warps - 2) ** 2 + 0.3 * (config["stages"] - 3) ** 2
    return 1e-5 * (1 + 0.1 * far + 0.02 * (config["split"] - 4) ** 2 + ripple)


def work(_: object, url: str, name: str, sampler: str, seed: int, trials: int, log: Path, pause: float) -> None:
    """Until `trials` are done by all workers together; writes a line to `log` after each of its own."""
    shared = Shared(url, heartbeat_s=1, grace_s=3)
    search = SharedSearch(Search(SPACE, sampler, seed), shared, name, trials)
    with log.open("a") as done:
        while True:
            config = search.ask()
            if config is None:
                if not search.waiting:
                    break
                time.sleep(0.1)
                continue
            time.sleep(pause)
            search.tell(config, seconds(config))
            done.write(f"{config.key}\n")
            done.flush()
    shared.close()
