"""The rules, from numbers alone: occupancy, bounds, what is dropped and why, and the pruner of a running search."""

import pytest

from autotune.screening import chips, lower_bound, ranking, selection
from autotune.screening.binary import Candidate, KernelResources
from autotune.screening.machine_code import Code
from autotune.screening.occupancy import occupancy
from autotune.screening.pruner import Pruner
from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.space import Config
from tuning_db.records import Measurement, Outcome, Trial

H100 = chips.chip(90)
CHIPS_OF_HOPPER = {"NVIDIA H100 80GB HBM3": 3350, "NVIDIA H200": 4800, "NVIDIA GH200 480GB": 3350}


def facts(digest: str = "a", issue: int = 400, after: int = 900, programs: int = 132, registers=64, spills=0, shared=0):
    code = Code(issue, {"integer": issue}, 16, 2, 100, issue, after + 600, after, False)
    return KernelResources("k", digest, programs, 128, shared, registers, spills, code)


@pytest.mark.parametrize(
    ("wanted", "arguments"),
    [  # NVIDIA's occupancy calculator
        ((4, "registers"), (90, 128, 124, 0)),
        ((2, "registers"), (90, 128, 255, 0)),
        ((32, "programs"), (90, 32, 32, 0)),
        ((2, "warps"), (90, 1024, 32, 0)),
        ((4, "shared memory"), (90, 128, 32, 49_152)),
        ((0, "registers"), (90, 1024, 128, 0)),
        ((8, "warps"), (75, 128, 64, 0)),
        ((1, "shared memory"), (75, 128, 32, 49_152)),
    ],
)
def test_occupancy(wanted, arguments) -> None:
    found = occupancy(*arguments)
    assert (found.programs, found.by) == wanted
    with pytest.raises(ValueError, match="sm_12 is not known"):
        occupancy(12, 32, 32, 0)


def test_a_bound_is_the_largest_of_what_cannot_be_avoided() -> None:
    few, many = lower_bound.kernel(facts(), H100), lower_bound.kernel(facts(programs=132 * 9), H100)
    assert (few.rounds, many.rounds) == (1, 2)  # 8 programs of 64 registers a multiprocessor
    assert few.issue_ns == pytest.approx(400 / 1.98) and many.issue_ns == pytest.approx(9 * 400 / 1.98)
    assert few.latency_ns == pytest.approx(900 / 1.98) and many.latency_ns == pytest.approx((1500 + 900) / 1.98)
    assert lower_bound.estimate([few], 33_500_000, H100).limit == "memory"
    assert lower_bound.estimate([few], 100, H100).limit == "latency"
    assert lower_bound.estimate([many], 100, H100).limit == "issue"


def test_a_bound_on_an_h200_is_not_that_of_an_h100s_memory() -> None:
    """49,152 x 576 in Q8_0, 30.08 MB, took 8.51 us there, where an H100's 3,350 GB/s would not allow it."""
    bandwidth = {name: chips.of(Device("cuda", name, "9.0", 132, 80 << 30)).bandwidth for name in CHIPS_OF_HOPPER}
    assert bandwidth == CHIPS_OF_HOPPER
    assert chips.of(Device("cuda", "NVIDIA H200", "9.0", 132, 141 << 30), 4570.0).bandwidth == 4570.0  # as measured
    assert 30.08e6 / bandwidth["NVIDIA H200"] < 8505 < 30.08e6 / bandwidth["NVIDIA H100 80GB HBM3"]


def test_each_rule_gives_its_reason() -> None:
    def candidate(number: int, *kernels: KernelResources, failure: str | None = None) -> Candidate:
        return Candidate(Config({"number": number}), kernels, failure)

    made = [
        candidate(0, facts("a")), candidate(1, facts("a")), candidate(2, failure="does not compile: ptxas"),
        candidate(3, facts("b", spills=64)), candidate(4, facts("c", shared=300_000)),
        candidate(5, facts("d", issue=9000)), candidate(6, facts("e", after=800)),
    ]  # fmt: skip
    verdicts = ranking.screen(made, 1000, H100)
    assert [v.config["number"] for v in verdicts[:2]] == [6, 0] and all(v.kept for v in verdicts[:2])
    rules = {v.config["number"]: (v.rule, v.reason) for v in verdicts[2:]}
    assert {n: rule for n, (rule, _) in rules.items()} == {
        1: "duplicate", 2: "failed", 3: "spills", 4: "impossible", 5: "slow",
    }  # fmt: skip
    assert "64 bytes" in rules[3][1] and "shared memory" in rules[4][1] and '"number":0' in rules[1][1]
    assert rules[5][1] == "issues for 4.55 and waits for 0.45 µs, 5.00 together; those kept 0.66 at most"


def test_what_is_compiled_and_what_no_compiler_sees() -> None:
    space = registry.cuda_space(
        registry.parse_problem("matvec:rows=64,cols=512,format=Q4_0,activation=int16"), H100.device
    )
    everything = selection.choose(space, None)
    assert set(everything.configs) == set(space.configs()) and everything.configs[0] == space.default
    assert everything.valid == len(everything.configs)
    assert everything.valid + sum(everything.dropped.values()) == everything.seen
    assert any(reason.startswith("few tiles: ") for reason in everything.dropped)
    some = selection.choose(space, 10)
    assert len(some.configs) == 10 and some == selection.choose(space, 10) and some.configs[0] == space.default


MEASURED = Trial({"n": 1}, Outcome.OK, Measurement(1.0, 1200.0, 3.0, 7), 0.5, 1e-3, 1e-2)
DEFAULT, OTHER = Config({"n": 0}), Config({"n": 2})


def pruner() -> Pruner:
    return Pruner(Device("cuda", "NVIDIA H100", "9.0", 132, 80 << 30), 1000, DEFAULT)


def test_a_duplicate_binary_gets_its_result() -> None:
    known = pruner()
    known.remember(Config(MEASURED.config), [facts("a")], MEASURED)
    duplicate = known.prune(OTHER, [facts("a")], 0.7, None)
    assert duplicate is not None and duplicate.outcome is Outcome.OK and duplicate.measurement == MEASURED.measurement
    assert (duplicate.config, duplicate.compile_s) == ({"n": 2}, 0.7)
    assert duplicate.message == 'the same machine code as {"n":1}'
    assert known.prune(OTHER, [facts("b")], 0.7, None) is None
    assert known.prune(DEFAULT, [facts("a")], 0.7, None) is None, "the default is always measured"


def test_what_cannot_beat_the_best_is_pruned() -> None:
    slow = facts("slow", issue=3000)
    assert pruner().prune(OTHER, [slow], 0.1, None) is None
    assert pruner().prune(OTHER, [slow], 0.1, 2000.0) is None
    pruned = pruner().prune(OTHER, [slow], 0.1, 1400.0)
    assert pruned is not None and pruned.outcome is Outcome.PRUNED and pruned.measurement is None
    assert pruned.message == "at least 1.52 µs by issue; the best takes 1.40"
    unknown = Pruner(Device("cuda", "new", "13.0", 1, 1), 1000, DEFAULT)
    assert unknown.prune(OTHER, [slow], 0.1, 1.0) is None


def test_kernels_of_the_default_are_filled_in() -> None:
    known = pruner()
    assert known.prune(OTHER, [facts("a"), None], 0.1, None) is None
    known.remember(OTHER, [facts("a"), None], MEASURED)  # not known yet: forgotten
    known.remember(DEFAULT, [facts("x"), facts("y")], MEASURED)
    known.remember(Config({"n": 3}), [facts("a"), None], MEASURED)
    assert known.prune(OTHER, [facts("a"), facts("y")], 0.1, None) is not None
    assert known.prune(OTHER, [None, facts("y")], 0.1, None) is not None, "it is the default's code"
