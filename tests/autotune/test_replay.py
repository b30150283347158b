"""Recorded spaces: read, replayed by every sampler, refused in one line when they are damaged."""

import gzip
import json

import numpy as np
import pytest
from click.testing import CliRunner
from sampler_names import QUICK_OR_SLOW

from autotune import UserError
from autotune.cli import cli
from autotune.samplers import replay
from autotune.samplers.features import encode
from autotune.samplers.gp_search import GPSearch
from autotune.samplers.study import Search


@pytest.fixture
def space(tmp_path):
    """A bowl with a rim: blocks that 32 divides are fast, of the widest some fail."""
    lines = ["block,wide,kind,time_ms"]
    for block in range(16, 272, 16):
        for wide in (1, 2, 4, 8):
            for kind in ("a", "b", "c"):
                time = 1.0 + abs(np.log2(block / 96)) + (block % 32 > 0) + abs(wide - 4) / 4 + "bca".index(kind) / 5
                lines.append(f"{block},{wide},{kind},{'' if block * wide > 1500 else round(time, 4)}")
    path = tmp_path / "bowl.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def test_the_length_is_limited(space, monkeypatch) -> None:
    monkeypatch.setattr(replay, "LARGEST", 1000)
    with pytest.raises(UserError, match="more than 1,000 bytes of text"):
        replay.read(space)


@pytest.mark.parametrize("sampler", QUICK_OR_SLOW)
def test_every_sampler_replays_without_repeating(space, sampler) -> None:
    recorded = replay.read(space)
    one, again = (replay.replay(recorded, sampler, 40, seed=3) for _ in range(2))
    assert len(set(one.rows)) == 40 and one.rows == again.rows and max(one.rows) < len(recorded.configs)
    whole = replay.replay(recorded, sampler, 10_000, seed=0)
    assert sorted(whole.rows) == list(range(len(recorded.configs)))


def test_the_pool_finds_what_random_does_not(space) -> None:
    recorded = replay.read(space)
    best = min(seconds for seconds in recorded.seconds if seconds)

    def found(sampler: str, trials: int) -> float:
        runs = [replay.replay(recorded, sampler, trials, seed).rows for seed in range(5)]
        return float(np.mean([min(recorded.seconds[row] or 9.0 for row in rows) for rows in runs])) / best

    assert found("pool", 25) < 1.05 < found("random", 25)


def test_the_command_prints_rows_as_the_file_has_them(space) -> None:
    done = CliRunner().invoke(cli, ["replay", str(space), "--trials", "7", "--seeds", "2", "--json"])
    document = json.loads(done.stdout)
    assert document["space"] == "bowl.csv.gz" and document["sampler"] == "pool"
    assert [run["seed"] for run in document["runs"]] == [0, 1]
    assert all(len(set(run["rows"])) == 7 and run["seconds"] > 0 for run in document["runs"])
    plain = CliRunner().invoke(cli, ["replay", str(space), "--trials", "30", "--seeds", "1"])
    assert "192 configurations" in plain.stdout and "times the best's time after 30 evaluations" in plain.stdout


def test_another_tuners_results_are_replayed_too(tmp_path) -> None:
    path = tmp_path / "cache.json"
    entries = [{"x": x, "kind": "ab"[x % 2], "time": float(9 - x)} for x in range(8)]
    entries[3]["time"], entries[4]["time"] = "RuntimeFailedConfig", "InvalidConfig"
    about = {"device_name": "A100", "kernel_name": "k", "problem_size": 8, "tune_params_keys": ["x", "kind"]}
    path.write_text(json.dumps(about | {"cache": {str(e["x"]): e for e in entries}}))
    done = CliRunner().invoke(cli, ["replay", str(path), "--trials", "9", "--seeds", "1"])
    assert "7 configurations, the best 2 ms" in done.stdout and "1.000 times the best's time after 7" in done.stdout


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"results": []}', "no configuration that worked"),
        (b"", "is empty"),
        (b"generation,status,perf_ms,config\n1,ok,2.0,{}\n", "has no results of a tuner"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(tmp_path, text, reason) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(text)
    done = CliRunner().invoke(cli, ["replay", str(path)])
    assert done.exit_code == 2 and reason in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "no header"),
        (b"a,b\n1,2\n", "no header"),
        (b"a,time_ms\n1,2,3\n", "line 2: 3 columns"),
        (b"a,time_ms\n1,fast\n", "no time"),
        (b"a,time_ms\n1,-2\n", "no time"),
        (b"a,time_ms\n1,2\n1,3\n", "twice"),
        (b"a,time_ms\n1,\n", "no configuration that worked"),
        (b"\x1f\x8bnonsense", "damaged"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, text, reason) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(text)
    with pytest.raises(UserError, match=reason):
        replay.read(path)


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        replay.read(tmp_path / "none.csv")


def test_features_are_between_0_and_1_and_know_divisibility() -> None:
    blocks = [float(block) for block in range(32, 257, 8)]
    points = encode([blocks, ["x"] * len(blocks), ["p", "q"] * 14 + ["p"]])
    assert points.shape == (29, 3) and points.min() == 0.0 and points.max() == 1.0
    twos = dict(zip(blocks, points[:, 1], strict=True))
    assert twos[256.0] == 1.0 > twos[128.0] > twos[192.0] > twos[96.0] > twos[72.0] == 0.0
    assert encode([["x", "y", "z", "x"]]).shape == (4, 3) and encode([[5, 5]]).shape == (2, 1)


def test_a_pool_takes_news_in_any_order_and_failures_alone() -> None:
    pool = GPSearch([list(range(50)), [1, 2] * 25], seed=1)
    asked = [pool.ask() for _ in range(12)]  # before anything is told
    for row in reversed(asked):
        pool.tell(row, None)
    more = [pool.ask() for _ in range(5)]
    pool.tell(49 if 49 not in asked + more else 48, 1.0)  # found by somebody else
    for row in more:
        pool.tell(row, 2.0 + row)
    rest = []
    while (row := pool.ask()) is not None:
        rest.append(row)
        pool.tell(row, 1.0 + abs(row - 25) / 10)
    assert len({*asked, *more, *rest}) == len(asked) + len(more) + len(rest) == 49 + (49 in asked + more)


def test_a_good_prior_saves_evaluations_and_misleading_ones_cost_few(space) -> None:
    recorded = replay.read(space)
    ranked = sorted(zip(recorded.seconds, range(192), strict=True), key=lambda pair: (pair[0] is None, pair[0] or 0.0))
    configs, close = recorded.configs, 1.05 * ranked[0][0]
    good, bad = configs[ranked[1][1]], [configs[row] for _, row in ranked[-3:]]

    def evaluations(prior: list) -> float:
        counts = []
        for seed in range(5):
            search, count = Search(recorded.space, "pool", seed, first=prior, configs=configs), 1
            while (recorded.seconds[configs.index(config := search.ask())] or 99.0) > close:
                search.tell(config, recorded.seconds[configs.index(config)])
                count += 1
            counts.append(count)
        return float(np.mean(counts))

    alone = evaluations([])
    assert evaluations([good]) < alone and evaluations(bad) <= alone + len(bad) + 3
