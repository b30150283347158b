"""Whose kernels they are: joined by name and geometry to what the database's winners launch."""

import pytest

pytest.importorskip("triton", reason="needs Triton")

from autotune.profiling import match_kernels
from autotune.profiling.kernel_key import NEEDED, KnownKernel
from autotune.profiling.kernel_table import without_a_gpu
from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.space import Config
from tuning_db.profile_records import KernelLaunch, Profile, Provenance
from tuning_db.records import Measurement, Winner

H100 = Device("cuda", "NVIDIA H100 80GB HBM3", "9.0", 132, 80 << 30)
MATVEC = registry.parse_problem("matvec:rows=576,cols=576,format=Q4_1,activation=int16")
ABOUT = Provenance("t.sqlite", "0" * 64, 1, "Nsight Systems", "nsys SQLite")


def launch(kernel: KnownKernel, place=0, name=None) -> KernelLaunch:
    return KernelLaunch(place, name or kernel.kernel, grid=kernel.grid, block=kernel.block, duration_ns=1.0)


@pytest.fixture
def winner():
    """A configuration of MATVEC whose kernel has another geometry than the default's."""
    space = registry.cuda_space(MATVEC, H100)
    (default,) = without_a_gpu(MATVEC, space.default, "default")
    for config in space.configs():
        (kernel,) = without_a_gpu(MATVEC, config, "winner")
        if (kernel.grid, kernel.block) != (default.grid, default.block):
            return config, kernel, default
    raise AssertionError("every configuration launches alike")


def test_winner_and_default_of_the_database(db, winner):
    config, best, default = winner
    db.set_winner(H100, Winner(MATVEC.key, 1, dict(config), Measurement(1, 2, 3, 4), 5.0, 0.0, 1e-3), None, None)
    other = KernelLaunch(2, "rows_product", grid=(7, 7, 7), block=(32, 1, 1))
    profile = Profile(ABOUT, (launch(best), launch(default, 1, "void residual_product(...)"), other))
    told = match_kernels.joined(profile, db).launches
    assert [(x.problem, x.role) for x in told] == [(MATVEC.key, "winner"), (MATVEC.key, "default"), (None, None)]
    assert Config(told[0].config) == config
    needed = told[0].metrics.number(NEEDED)
    assert needed == best.bytes_needed and told[2].metrics.number(NEEDED) is None
    # Weights, activations, residual and output, each once: about what the operation counts.
    assert needed == pytest.approx(registry.get("matvec").work(MATVEC).bytes, rel=0.05)


def test_other_programs_kernels_start_no_process(db, monkeypatch):
    monkeypatch.setattr(match_kernels, "_of_database", lambda db: pytest.fail("asked for no reason"))
    profile = Profile(ABOUT, (KernelLaunch(0, "ampere_sgemm", grid=(1, 1, 1), block=(32, 1, 1)),))
    assert match_kernels.joined(profile, db) is profile


def test_what_two_problems_could_have_launched_stays_open():
    one = KnownKernel("k", (1, 1, 1), (32, 1, 1), "out", "a:x=1", {"w": 1}, "winner", 10)
    two = KnownKernel("k", (1, 1, 1), (32, 1, 1), "out", "b:x=1", {"w": 1}, "winner", 10)
    profile = Profile(ABOUT, (launch(one),))
    assert match_kernels.with_known(profile, [one, two]).launches[0].problem is None
    assert match_kernels.with_known(profile, [one, one]).launches[0].problem == "a:x=1"


@pytest.mark.parametrize(
    ("name", "short"),
    [("k", "k"), ("void copy<float>(float *, int)", "copy"), ("ns::f(int)", "ns::f"), ("", ""), ("  ", "")],
)
def test_short_names(name, short):
    assert match_kernels.short_name(name) == short


def test_our_names_are_the_templates_kernels():
    assert {
        "rows_product",
        "residual_product",
        "gated_product",
        "attend",
        "combine",
        "pick",
    } <= match_kernels.our_names()
