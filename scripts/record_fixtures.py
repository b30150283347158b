"""Record the profiler fixtures on this machine's GPU, with Nsight Compute: tests/fixtures/nsight is made by this.

Writes into the folder --out: small.ncu-rep (one operation), decode.ncu-rep (a layer and the head of a 135M model), each
untuned and with the winners of benchmarks/, and seeded.ncu-rep (scripts/seeded); their CSVs; needed.json; aa.db,
kernels against themselves, which is tests/fixtures/h100_repeats.db.xz once it is compressed; machine.json. Everything
runs from a copy under /tmp, so that reports name no folder of whoever records them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = Path("/tmp/autotune")
MODEL = ROOT / "benchmarks" / "h100" / "smollm2-135m-instruct.json"
DEVICE = "cuda:0"
PAGES = {"raw": ["--page", "raw"], "base": ["--page", "raw", "--print-units", "base"], "details": ["--page", "details"]}
SMALL, DECODE = ("norm_qkv_rope",), ("layer", "head")
KERNELS = ("norm_qkv_rope", "attention", "matvec", "ffn", "head")
RUNS = 21


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    parser.add_argument("--runs", type=int, default=RUNS, help="measurements of every kernel for aa.db")
    parser.add_argument("--only", metavar="STEP", help="machine, small, seeded, decode or aa")
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.again:
        _from_a_copy(given)
        return
    from autotune.profiling import ncu

    profiler = ncu.find()
    if profiler is None:
        sys.exit("record_fixtures: there is no Nsight Compute here; install NVIDIA's package nsight-compute")
    failures = {}
    for name, step in {
        "machine": lambda: _machine(given.out, profiler),
        "small": lambda: _ours(given.out, "small", SMALL, profiler),
        "seeded": lambda: _seeded(given.out, profiler),
        "decode": lambda: _ours(given.out, "decode", DECODE, profiler),
        "aa": lambda: _against_itself(given.out, given.runs),
    }.items():
        if given.only not in (None, name):
            continue
        start = time.monotonic()
        try:
            failure = step()
        except Exception as error:  # the next step may still succeed, and GPU time is dear
            failure = f"{type(error).__name__}: {error}"
        print(f"{name}: {failure or 'ok'}, {time.monotonic() - start:.1f} s", flush=True)
        if failure:
            failures[name] = failure
    if failures:
        sys.exit(f"record_fixtures: {', '.join(failures)} failed")


def _from_a_copy(given: argparse.Namespace) -> None:
    shutil.rmtree(COPY, ignore_errors=True)
    for name in ("autotune", "kernel_templates", "model", "tuning_db", "scripts"):
        shutil.copytree(ROOT / name, COPY / name, ignore=shutil.ignore_patterns("__pycache__"))
    target = COPY / MODEL.relative_to(ROOT)
    target.parent.mkdir(parents=True)
    shutil.copy(MODEL, target)
    path = os.pathsep.join([str(COPY), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        sys.executable,
        str(COPY / "scripts" / Path(__file__).name),
        "--again",
        "--out",
        str(given.out.resolve()),
    ]
    if given.only:
        command += ["--only", given.only]
    done = subprocess.run(
        [*command, "--runs", str(given.runs)], cwd=COPY, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    sys.exit(done.returncode)


def _calls(operations: tuple[str, ...]) -> list:
    """The default and the winner of every problem of these operations that benchmarks/ has; layers of one context."""
    from autotune.profiling.recording import Call
    from kernel_templates import registry
    from kernel_templates.cuda import machine
    from kernel_templates.space import Config

    tune = json.loads(MODEL.read_text())["tune"]
    rows = [row for part in tune.values() if isinstance(part, list) for row in part if "config" in row]
    here, found = machine.detect(0), []
    for operation in operations:
        row = next(row for row in rows if row["problem"].startswith(f"{operation}:"))
        default = registry.cuda_space(registry.parse_problem(row["problem"]), here).default
        found += [Call(row["problem"], default, "default"), Call(row["problem"], Config(row["config"]), "winner")]
    return found


def _ours(out: Path, name: str, operations: tuple[str, ...], profiler: Path) -> str | None:
    from autotune.profiling.recording import record

    folder = COPY / name
    folder.mkdir()
    recording = record(_calls(operations), DEVICE, profiler, folder, timeout_s=120)
    if recording.failure:
        return recording.failure
    shutil.copy(recording.report, out / f"{name}.ncu-rep")
    shutil.copy(folder / "kernels.json", out / f"{name}.kernels.json")
    return _csv(out, name, profiler)


def _seeded(out: Path, profiler: Path) -> str | None:
    from autotune.profiling import ncu

    work = [sys.executable, str(COPY / "scripts" / "seeded" / "launch.py"), str(out / "needed.json")]
    failure = ncu.run(ncu.command(profiler, COPY / "seeded.ncu-rep", work, source=False), 150)
    if failure:
        return failure
    shutil.copy(COPY / "seeded.ncu-rep", out)
    return _csv(out, "seeded", profiler)


def _csv(out: Path, name: str, profiler: Path) -> str | None:
    for page, options in PAGES.items():
        done = subprocess.run(
            [str(profiler), "--import", str(out / f"{name}.ncu-rep"), "--csv", *options],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        (out / f"{name}.{page}.csv").write_text(done.stdout)
        if done.returncode:
            return f"--page {page}: {done.stderr.strip() or done.stdout.strip()[-200:]}"
    return None


def _against_itself(out: Path, runs: int) -> None:
    """The final comparison of default and winner of every kernel, as often as `runs`, each time in a process of its
    own: a tuning database of nothing but repeats."""
    from autotune.runner import device_lock
    from autotune.runner.versions import versions
    from autotune.runner.worker_pool import WorkerPool
    from autotune.tuning import candidate_runner
    from autotune.tuning import target as targets
    from autotune.tuning.problem_tuner import FINAL_ROUNDS
    from kernel_templates import registry
    from tuning_db import open_db
    from tuning_db.records import Outcome, Run, Trial, TrialKind

    target, calls = targets.of(DEVICE), _calls(KERNELS)
    problems = [registry.parse_problem(call.problem) for call in calls[::2]]
    with (
        open_db(out / "aa.db") as db,
        device_lock.measuring(target.identity, target.name),
        WorkerPool(1, target.separate_measurer, target.program, target=target.name) as worker_pool,
    ):
        db.remember_device(target.device)
        candidate_runner.generate_inputs_ahead(problems, target, worker_pool, 0)
        for _ in range(runs):
            worker_pool.measurer.stop()
            for problem, pair in zip(problems, zip(calls[::2], calls[1::2], strict=True), strict=True):
                work, space = target.work(problem), target.space(problem)
                about = (problem.key, problem.template_version, "exhaustive", 0, 2, work.bytes, work.ops, versions())
                run_id = db.begin_run(target.device, Run(*about), space)
                runner = candidate_runner.CandidateRunner(problem, target, worker_pool, 0)
                runner.await_inputs()
                runner.open()
                reply = runner.compare_finalists([call.config for call in pair], FINAL_ROUNDS)
                for call, measurement, error in zip(pair, reply.measurements, reply.errors, strict=True):
                    known = (measurement, None, error, runner.tolerance)
                    compared = Trial(dict(call.config), Outcome.OK, *known, kind=TrialKind.FINAL_COMPARISON)
                    db.record_trial(run_id, compared)
                db.finish_run(run_id, "finished")


def _machine(out: Path, profiler: Path) -> None:
    from autotune.runner.versions import versions
    from kernel_templates.cuda import machine

    here = machine.detect(0)
    said = subprocess.run([str(profiler), "--version"], capture_output=True, text=True, check=False).stdout
    document = {
        "chip": here.chip, "capability": here.capability, "fingerprint": here.fingerprint,
        "versions": versions() | dict(here.versions), "profiler": said.splitlines()[-1] if said else "",
    }  # fmt: skip
    (out / "machine.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
