"""Nsight Compute's reports, recorded on an H100: what is in them, the same through every format, fast and small."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import reports
from importing import import_file

from autotune import UserError
from autotune.importers import ncu_csv, ncu_rep, ncu_rep_library
from autotune.profiling import match_kernels
from autotune.profiling.kernel_key import NEEDED, KnownKernel
from tuning_db import profiles

pytest.importorskip("ncu_report", reason="needs NVIDIA's package ncu-report")


@pytest.fixture(scope="module")
def small(recorded):
    return ncu_rep.read(recorded("small.ncu-rep"))


def test_launches_and_where_they_come_from(small):
    geometry = [(x.kernel, x.grid, x.block) for x in small.launches]
    assert geometry == [
        ("rows_product", (240, 1, 1), (128, 1, 1)), ("finish", (15, 1, 1), (32, 1, 1)),
        ("rows_product", (30, 1, 1), (512, 1, 1)), ("finish", (15, 1, 1), (32, 1, 1)),
    ]  # fmt: skip
    about = small.provenance
    assert about.chip == "NVIDIA H100 80GB HBM3" and about.recorded_at == "2026-11-26T19:56:05+00:00"
    assert 1e9 < about.clocks["sm"] < 2e9 and 2.5e9 < about.clocks["dram"] < 2.7e9
    assert (about.found, about.expected) == (4, 4) and not about.partial and "no end mark" in about.note


def test_ranges_nest(small):
    def path(place):
        return [] if place is None else [*path(small.ranges[place].parent), small.ranges[place].name.split()[0]]

    assert [path(x.range) for x in small.launches] == [
        ["default", "qkv"], ["default", "finish"], ["winner", "qkv"], ["winner", "finish"],
    ]  # fmt: skip


def test_rules_with_their_gains(small):
    findings = [f for x in small.launches for f in x.findings]
    assert {f.kind for f in findings} >= {"ok", "optimization"} and len(findings) > 40
    gains = [f for f in findings if f.gain is not None]
    assert gains and all(0 <= f.gain <= 100 and f.gain_scope in ("global", "local") for f in gains)
    assert any(f.focus for f in gains)


@pytest.mark.parametrize(
    ("sass", "expected"),
    [
        ("@!P0  BRA 0x7fcf937be670 ;", "@!P0  BRA 0x0670 ;"),
        ("BSSY B0, 0x7fcf937be000 ;", "BSSY B0, 0x0000 ;"),
        ("CALL.REL.NOINC 0x7fcf937bf010 ;", "CALL.REL.NOINC 0x7fcf937bf010 ;"),  # beyond the kernel
        ("MOV R1, 0x7fcf937be670 ;", "MOV R1, 0x7fcf937be670 ;"),  # a number
        ("", ""),
    ],
)
def test_jumps_are_counted_from_the_kernels_start(sass, expected):
    from autotune.importers.ncu_rep_reader import relative

    assert relative(sass, 0x7FCF937BE000, 0x7FCF937BF000) == expected


def test_source_instructions_and_stalls(small):
    lines = small.launches[0].lines
    assert [line.address for line in lines] == list(range(0, 16 * len(lines), 16))
    assert any("LDG" in line.sass for line in lines) and sum(line.samples for line in lines) > 0
    files = {line.file for line in lines if line.file}
    assert any(file.endswith("cuda/product.py") for file in files)
    for line in lines:
        if small.sources.get(line.file):
            assert 1 <= line.line <= len(small.sources[line.file].splitlines()) + 1
    product = next(text for name, text in small.sources.items() if name.endswith("cuda/product.py"))
    assert "def rows_product" in product


@pytest.mark.parametrize("page", ["base", "raw"])
def test_the_raw_csv_has_the_same_numbers(small, recorded, page):
    """But for what it rounds: two digits after the point, of the unit that it prints."""
    table = ncu_csv.read(recorded(f"small.{page}.csv"))
    compared = 0
    for one, other in zip(small.launches, table.launches, strict=True):
        assert (one.kernel, one.grid, one.block, one.stream) == (other.kernel, other.grid, other.block, other.stream)
        for name in one.metrics.keys() & other.metrics.keys():
            exact, printed = one.metrics[name].value, other.metrics[name].value
            compared += 1
            if isinstance(exact, str):
                assert exact == printed, name
                continue
            assert printed == pytest.approx(exact, rel=0.00501 if page == "raw" else 1e-15, abs=0.00501), name
    assert compared > 8000


def test_the_details_csv_has_the_same_numbers(small, recorded):
    table = ncu_csv.read(recorded("small.details.csv"))
    for one, other in zip(small.launches, table.launches, strict=True):
        assert (one.kernel, one.grid, one.block) == (other.kernel, other.grid, other.block)
        same = one.metrics.keys() & other.metrics.keys()
        assert len(same) > 80 and all(": " in name for name in other.metrics.keys() - same)
        for name in same:
            exact, printed = one.metrics[name].value, other.metrics[name].value
            if isinstance(exact, str):
                assert exact == printed, name
            else:
                assert printed == pytest.approx(exact, rel=0.00501, abs=0.00501), name
        # The page leaves out the rules that have nothing to say.
        assert {f.text for f in other.findings} <= {f.text for f in one.findings}


def test_stored_as_read(small, recorded, db):
    path = recorded("small.ncu-rep")
    stored = profiles.load(db, import_file(path, db).profile)
    assert stored.provenance == small.provenance and stored.ranges == small.ranges
    assert stored.sources == small.sources
    for one, other in zip(small.launches, stored.launches, strict=True):
        assert one.findings == other.findings and one.lines == other.lines
        assert dict(one.metrics) == dict(other.metrics)


def test_launches_are_joined_in_the_order_they_were_recorded(small, recorded):
    kernels = [KnownKernel.parse(row) for row in json.loads(recorded("small.kernels.json").read_text())]
    told = match_kernels.with_recorded(small, kernels)
    assert [x.role for x in told.launches] == ["default"] * 2 + ["winner"] * 2
    assert {x.problem.partition(":")[0] for x in told.launches} == {"norm_qkv_rope"}
    assert [x.metrics.number(NEEDED) for x in told.launches] == [k.bytes_needed for k in kernels]
    # One that somebody else launched in between is nobody's.
    stranger = replace(small.launches[0], kernel="stranger")
    told = match_kernels.with_recorded(replace(small, launches=(stranger, *small.launches)), kernels)
    assert [x.role for x in told.launches] == [None, "default", "default", "winner", "winner"]
    assert told.launches[0].metrics.number(NEEDED) is None


@pytest.mark.parametrize("kernels", [100, pytest.param(600, marks=pytest.mark.timing)])
def test_many_kernels_take_little_memory_and_600_five_seconds(recorded, tmp_path, kernels):
    """In a process of its own, whose memory is looked at: the parent of the one that reads."""
    path = tmp_path / "many.ncu-rep"
    path.write_bytes(reports.many(recorded("small.ncu-rep").read_bytes(), kernels, 300))
    script = (
        "import json, resource, sys, time\nfrom pathlib import Path\nfrom autotune.commands.import_ import store\n"
        "from autotune.importers import registry\n"
        "from tuning_db import open_db\nstart = time.perf_counter()\n"
        "with open_db(sys.argv[2]) as db:\n"
        "    path = Path(sys.argv[1])\n    (summary,) = store(registry.recognize(path), path, lambda: db)\n"
        "seconds = time.perf_counter() - start\nused = resource.getrusage\n"
        "cpu = sum(getattr(used(who), kind) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)"
        " for kind in ('ru_utime', 'ru_stime'))\n"
        # Not ru_maxrss, which begins with what the forking process had.
        "peak = next(x for x in Path('/proc/self/status').read_text().splitlines() if x.startswith('VmHWM'))\n"
        "print(json.dumps([summary.found, seconds, cpu, int(peak.split()[1])]))\n"
    )
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "tuning.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found, seconds, cpu, kilobytes = json.loads(done.stdout)
    print(f"{found} kernels in {seconds:.2f} s ({cpu:.2f} s of processor time), parent {kilobytes / 1e3:.0f} MB")
    assert found == kernels and kilobytes < 300_000
    assert kernels < 600 or cpu < 5  # of both processes; wall time is this on a machine that has nothing else to do


def brought(folder, text):
    """A folder of Nsight Compute with a library of its own."""
    library = folder / "extras" / "python"
    library.mkdir(parents=True)
    (library / "ncu_report.py").write_text(text)
    return str(library)


@pytest.fixture
def no_package(monkeypatch, tmp_path):
    """As if the package were not installed, and Nsight Compute only in a temporary folder."""
    monkeypatch.setattr(ncu_rep_library.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(ncu_rep_library, "INSTALLED", (f"{tmp_path.relative_to('/')}/nsight-compute/*",))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_without_nvidias_package_it_says_what_to_install(recorded, no_package):
    with pytest.raises(UserError, match=r"needs NVIDIA's package ncu-report; \./scripts/setup_env nsight"):
        ncu_rep.read(recorded("small.ncu-rep"))


def test_the_newest_nsight_compute_brings_the_library(no_package):
    made = [brought(no_package / "nsight-compute" / version, "") for version in ("2025.9.1", "2025.10.0", "2024.11.3")]
    assert ncu_rep_library.folders() == [made[1]]
    linked = no_package / "nsight-compute-2026.1.0"
    newest = brought(linked, "")
    (linked / "ncu").write_text("#!/bin/sh\n")
    (linked / "ncu").chmod(0o755)
    (no_package / "bin").mkdir()
    (no_package / "bin" / "ncu").symlink_to(linked / "ncu")
    assert ncu_rep_library.folders() == [newest]


def test_a_report_is_read_by_what_nsight_compute_brings(recorded, no_package):
    import ncu_report

    package, sign = Path(ncu_report.__file__), no_package / "loaded"
    text = f"{package.read_text()}\nopen({str(sign)!r}, 'w').close()\n"
    folder = Path(brought(no_package / "nsight-compute" / "2026.3.1", text))
    for library in package.parent.glob("*.so"):
        (folder / library.name).symlink_to(library)
    assert len(ncu_rep.read(recorded("small.ncu-rep")).launches) == 4
    assert sign.exists()


@pytest.mark.parametrize(
    "text", ["import _no_such_library", "raise ImportError('made for another Python')", "IMetric = object"]
)
def test_a_library_that_does_not_load_is_no_damaged_report(recorded, no_package, monkeypatch, text):
    folder = brought(no_package / "nsight-compute" / "2020.1.0", text)
    found = ncu_rep.environment()
    monkeypatch.setattr(ncu_rep, "environment", lambda: found | {"PYTHONPATH": f"{folder}:{found['PYTHONPATH']}"})
    with pytest.raises(UserError, match=f"NVIDIA's library in {folder} is of no use here"):
        ncu_rep.read(recorded("small.ncu-rep"))


def test_a_reader_that_hangs_or_dies_is_one_line(recorded, monkeypatch):
    def hang(*_, timeout, **__):
        raise subprocess.TimeoutExpired("reader", timeout)

    monkeypatch.setattr(ncu_rep.subprocess, "run", hang)
    with pytest.raises(UserError, match="could not be read within 300 s"):
        ncu_rep.read(recorded("small.ncu-rep"))
    dead = subprocess.CompletedProcess("reader", -11)
    monkeypatch.setattr(ncu_rep.subprocess, "run", lambda *_, **__: dead)
    with pytest.raises(UserError, match="NVIDIA's library fails on it"):
        ncu_rep.read(recorded("small.ncu-rep"))
