"""`autotune tune`, `bench` and `devices`: what they pass on and what they print; the libraries are stand-ins here."""

import json
from pathlib import Path

import pytest

from autotune import UserError
from autotune.benchmarking.benchmark_result import Decode, KernelTime, ModelBenchmark, Side
from autotune.commands import tune
from autotune.runner import ceilings
from autotune.tuning import sequential, tune_model
from autotune.tuning.candidate_runner import TuneError
from autotune.tuning.tuner_base import Progress, Tuned
from kernel_templates.cuda import machine
from kernel_templates.device import Device
from tuning_db.records import Measurement, Outcome, Winner

LIMITS = {"read_gb_s": 31.5, "copy_gb_s": 20.0, "int8_gop_s": 900.0, "f32_gflop_s": 200.0, "measured_at": 1.7e9}


def took(ns: float, microjoules: float | None = None) -> Measurement:
    return Measurement(ns, ns, ns, 9, energy_uj=microjoules)


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """Each call of a stand-in `sequential.tune` that reports one trial and a result per problem."""
    made: list[dict] = []

    def tune(problems, db, settings):
        made.append({"problems": problems, "writable": db.writable, **vars(settings)})
        for index, problem in enumerate(problems):
            place = Progress(problem, index, len(problems), 1, settings.trials, 500.0, 1000.0, Outcome.OK)
            settings.report(place)
        tried = 1 if settings.budget_s == 20.0 else 9
        return [
            Tuned(p, {"lanes": 64}, took(500.0), took(1000.0), 10_000, 20e9 / 0.7, tried, 1, "searched", n)
            for p, n in problems.items()
        ]

    monkeypatch.setattr(sequential, "tune", tune)
    return made


def test_tune_passes_everything_on(autotune, calls, tiny_model) -> None:
    result = autotune("tune", tiny_model, "--widths", "decode")
    assert result.exit_code == 0 and len(calls) == 1 and len(calls[0]["problems"]) == 5
    assert {k: calls[0][k] for k in ("writable", "trials", "budget_s", "sampler", "seed")} == {
        "writable": True, "trials": 40, "budget_s": 75.0, "sampler": "pool", "seed": 0,
    }  # fmt: skip
    assert "matvec:rows=64,cols=64" in result.stdout and " 9 " in result.stdout and "70%" in result.stdout
    assert "geometric mean speed-up 2.00×" in result.stdout
    assert "(5 of 5)" in result.stderr and "5 of 5 problems have a winner" in result.stderr
    assert "--budget" not in result.stderr
    options = ("--op", "matvec", "--op", "head", "--budget", "0", "--trials", "3", "--sampler", "random", "--seed", "9")
    autotune("tune", tiny_model, *options)
    assert sorted(p.op for p in calls[1]["problems"]) == ["head", "matvec"]
    assert (calls[1]["budget_s"], calls[1]["trials"], calls[1]["sampler"], calls[1]["seed"]) == (None, 3, "random", 9)


@pytest.mark.parametrize(("least", "cell", "mean"), [(1.9, "2.00", "2.00×"), (2.1, "not measurable now", "1.00×")])
def test_a_gain_below_the_spread_of_the_rounds_is_not_measurable(
    least, cell, mean, autotune, monkeypatch, tiny_model
) -> None:
    best, default = Measurement(480.0, 500.0, 900.0, 15), Measurement(400.0, 1000.0, 2000.0, 15)

    def tune(problems, db, settings):
        return [
            Tuned(p, {"lanes": 64}, best, default, 10_000, 16e9, 9, 1, "searched", n, least_speedup=least)
            for p, n in problems.items()
        ]

    monkeypatch.setattr(sequential, "tune", tune)
    words = ("tune", tiny_model, "--widths", "decode")
    shown = autotune(*words).stdout
    assert cell in shown and f"geometric mean speed-up {mean}" in shown and "0.48–0.90" in shown
    assert "125%*" in shown and "above 100%" in shown
    row = json.loads(autotune(*words, "--json").stdout)["tuned"][0]
    assert row["measurable"] == (least < 2.0) and row["least_speedup"] == least and row["read_gb_s"] == 16.0
    assert row["best_range_ns"] == [480.0, 900.0] and row["default_range_ns"] == [400.0, 2000.0]


def test_a_budget_that_leaves_no_choice_is_told(autotune, calls, tiny_model) -> None:
    said = "for 5 of them one configuration is all that was tried; --budget gives them more time"
    words = ("tune", tiny_model, "--widths", "decode", "--budget", "20")
    assert said in autotune(*words).stderr
    assert said not in autotune(*words, "--trials", "1").stderr


def test_prompts_are_tuned_too_in_what_is_left_of_the_budget(autotune, calls, tiny_model) -> None:
    result = autotune("tune", tiny_model, "--budget", "100", "--json")
    document = json.loads(result.stdout)
    decode, prompt = calls
    assert decode["budget_s"] == pytest.approx(70.0) and 99.0 < prompt["budget_s"] <= 100.0, "nothing took any time"
    assert {p.op for p in prompt["problems"]} == {"matmul"} and {p.tokens for p in prompt["problems"]} == {16, 128}
    assert [row["problem"] for row in document["passes"]] == [p.key for p in prompt["problems"]]
    assert len(document["tuned"]) == 5
    assert not {p.op for p in decode["problems"]} & {"matmul"}


def test_widths_of_a_user(autotune, complaint, calls, tiny_model) -> None:
    result = autotune("tune", tiny_model, "--widths", "batch", "--budget", "30")
    (only,) = calls
    assert only["budget_s"] > 29.0 and {p.tokens for p in only["problems"]} == {2, 4, 8, 16, 32}
    assert "many tokens at once" in result.stdout and "TFLOP/s" in result.stdout and "each alone" not in result.stdout
    autotune("tune", tiny_model, "--widths", " prompt , decode,prompt", "--op", "matmul", "--budget", "0")
    assert [{p.op for p in call["problems"]} for call in calls[1:]] == [{"matmul"}] and calls[1]["budget_s"] is None
    said = complaint("tune", tiny_model, "--widths", "decode,wide")
    assert "no width is called 'wide'; give some of decode,prompt,batch,speculate" in said
    assert "no width is called ''" in complaint("tune", tiny_model, "--widths", "")
    assert "--op: this model has no head to tune on cpu" in complaint(
        "tune", tiny_model, "--widths", "prompt", "--op", "head"
    )


def test_a_problem_of_a_pass_is_taken_by_its_key(autotune, complaint, calls) -> None:
    key = "matmul:rows=64,cols=128,format=Q4_0,tokens=16"
    assert autotune("tune", key, "--trials", "2").exit_code == 0 and [p.key for p in calls[0]["problems"]] == [key]
    assert "tokens=99999 is not a number from 1 to 16384" in complaint("tune", key.replace("=16", "=99999"))
    assert "63 rows are not a gate's" in complaint("tune", key.replace("64", "63") + ",gate=silu")
    attention = "paged_attention:sequences=1,tokens=16,heads=4,kv_heads=2,head_dim=32,context=160"
    assert "paged_attention has no template for cpu" in complaint("tune", attention)


def test_tune_takes_a_problem_as_profile_and_screen_do(autotune, complaint, calls, own_database) -> None:
    key = "matvec:rows=64,cols=128,format=Q4_0,activation=int16"
    assert autotune("tune", key, "--trials", "2").exit_code == 0
    assert [p.key for p in calls[0]["problems"]] == [key] and calls[0]["trials"] == 2
    assert "rows is missing; a problem names rows" in complaint("tune", "matvec:cols=64")
    assert "is not a number from 1" in complaint("tune", key.replace("64", "0"))
    assert "--op chooses among a model's problems" in complaint("tune", key, "--op", "matvec")
    with pytest.raises(UserError, match="a problem names its own cache, as in cache=q8_0"):
        tune.model_problems(Path(key), (), "cuda:0", None, (), "q8_0")
    layer = autotune("space", "layer", "--gpu", "--json")
    assert "layer has no template for the cpu" in complaint("tune", json.loads(layer.stdout)["problem"])
    assert "no such file" in complaint("tune", "matvec.gguf")


def test_tune_json_is_one_document(autotune, calls, tiny_model, own_database) -> None:
    document = json.loads(autotune("tune", tiny_model, "--widths", "decode", "--json").stdout)
    assert document["database"] == str(own_database) and not document["interrupted"]
    assert [row["config"] for row in document["tuned"]] == [{"lanes": 64}] * 5


def test_interrupt_shows_what_was_kept(autotune, monkeypatch, tiny_model) -> None:
    from kernel_templates.cpu import machine

    def tune(problems, db, settings):
        problem = next(iter(problems))
        measured = Measurement(400.0, 500.0, 600.0, 9)
        winner = Winner(problem.key, problem.template_version, {"lanes": 64}, measured, 1000.0, 0.0, 1.0)
        db.set_winner(machine.detect(), winner, None, None)
        raise KeyboardInterrupt

    monkeypatch.setattr(sequential, "tune", tune)
    result = autotune("tune", tiny_model, "--widths", "decode")
    assert result.exit_code == 130 and "Kept so far" in result.stdout and "2.00×" in result.stdout
    assert "1 of 5 problems have a winner" in result.stderr and result.stderr.endswith("autotune: interrupted\n")
    document = json.loads(autotune("tune", tiny_model, "--json").stdout)
    assert document["interrupted"] and len(document["tuned"]) == 1


def test_a_problem_without_a_working_configuration(complaint, monkeypatch, tiny_model) -> None:
    def tune(*_):
        raise TuneError("matvec:...: no configuration of 3 worked; the first: wrong")

    monkeypatch.setattr(sequential, "tune", tune)
    assert "no configuration of 3 worked" in complaint("tune", tiny_model)


def test_bench(autotune, monkeypatch, tiny_model) -> None:
    asked: list[dict] = []

    def side(tok_s: float, us: float) -> Side:
        rows = (KernelTime("ffn:a=1", 30, us, 6_000_000), KernelTime("token", 121, 2 * us, 98_000_000))
        return Side(300.0, {0: Decode(tok_s, (tok_s, tok_s), 98_000_000, 121)}, rows)

    def benchmark(path, db, device, **settings):
        asked.append({"device": device, **settings})
        untuned, tuned = side(90.0, 800.0), side(270.0, 200.0)
        return ModelBenchmark(path.name, "chip", "", 31.6, untuned, tuned, {}, {"prompt": 512})

    monkeypatch.setattr("autotune.benchmarking.model_benchmark.benchmark", benchmark)
    result = autotune("bench", tiny_model)
    assert result.exit_code == 0 and "270.0" in result.stdout and "4.00×" in result.stdout and "95%" in result.stdout
    assert "% of read bandwidth" in result.stdout and "GB/s" in result.stdout
    assert callable(asked[0].pop("progress"))
    assert asked == [
        {
            "device": "cpu",
            "prompt": None,
            "tokens": 128,
            "runs": 5,
            "depths": (),
            "widths": None,
            "nvtx": False,
            "gpu_memory": None,
            "cache": "f16",
        }
    ]
    document = json.loads(autotune("bench", tiny_model, "--json").stdout)
    assert document["tuned"]["decode"]["0"]["tok_s"] == 270.0 and document["operations"]["tuned"][0]["us_each"] > 0


def test_bench_of_the_cpu(autotune, tiny_model) -> None:
    """A real one, small: every problem has a time inside the token, and they do not exceed it."""
    given = ("--prompt", "8", "--tokens", "8", "--runs", "1", "--depth", "0", "--depth", "16")
    result = autotune("bench", tiny_model, *given, "--widths", "prompt", "--json")
    for step in ("loading the untuned engine", "untuned, warming up", "tuned, round 1 of 1", "the kernels of a token"):
        assert step in result.stderr
    document = json.loads(result.stdout)
    assert document["settings"]["prompt"] == 8 and not document["settings"]["captured_alone"]
    for side in ("untuned", "tuned"):
        assert set(document[side]["decode"]) == {"0", "16"} and document[side]["prefill_tok_s"] > 0
        *rows, token = document["operations"][side]
        assert token["kernel"] == "token" and token["count"] == 1 + sum(row["count"] for row in rows)
        assert sum(row["bytes"] for row in rows) == token["bytes"] == document[side]["decode"]["0"]["bytes_per_token"]
        assert sum(row["us"] for row in rows) > 0
        assert document[side]["prompts"].keys() == {"16", "64"}, "256 are more than its context"
    assert "no width is called 'many'" in autotune("bench", tiny_model, "--widths", "many").stderr


@pytest.fixture
def fake_gpu(monkeypatch) -> Device:
    """A machine with one usable GPU, as far as the command line can see."""
    device = Device("cuda", "Fake 100", "9.0", 132, 80 << 30, (("driver", "1"),))
    monkeypatch.setattr(machine, "count", lambda: 1)
    monkeypatch.setattr(machine, "check", lambda index=0: None)
    monkeypatch.setattr(machine, "detect", lambda index=0: device)
    return device


def test_tuning_for_a_gpu_has_two_stages(autotune, monkeypatch, tiny_qwen3, fake_gpu) -> None:
    asked: list[dict] = []

    def tune(problems, layers, db, target, settings, timeline, passes):
        asked.append(
            {"problems": problems, "layers": layers, "target": target.name, "passes": passes, **vars(settings)}
        )
        for layer in layers[:1]:
            settings.report(Progress(layer, 0, len(layers), 1, None, 500.0, None, Outcome.OK, 2))
        alone = [
            Tuned(p, {"rows": 4}, took(1500.0), took(3000.0), 30_000, 20e9 / 0.7, 9, 1, "searched", n)
            for p, n in (*problems.items(), *passes.items())
        ]
        in_context = [
            Tuned(p, {"rows": 8}, took(2e4), took(4e4), 18_000_000, 1.8e12, 33, 2, "searched", isolated_ns=3e4)
            for p in layers
        ]
        return alone, in_context

    monkeypatch.setattr(tune_model, "tune", tune)
    result = autotune("tune", tiny_qwen3, "--device", "cuda")
    assert result.exit_code == 0, result.stderr
    assert {k: asked[0][k] for k in ("target", "trials", "budget_s", "sampler", "seed")} == {
        "target": "cuda:0", "trials": None, "budget_s": 150.0, "sampler": "pool", "seed": 0,
    }  # fmt: skip
    assert "Tuned, each alone" in result.stdout and "Tuned, in context" in result.stdout
    assert "40.0" in result.stdout and "30.0" in result.stdout and "in context 1.50× the speed" in result.stdout
    assert "1.50" in result.stdout and "tuning in context layer:" in result.stderr
    document = json.loads(autotune("tune", tiny_qwen3, "--device", "cuda:0", "--json").stdout)
    assert document["device"]["chip"] == "Fake 100" and len(document["in_context"]) == len(asked[1]["layers"]) > 0
    assert document["in_context"][0]["isolated_ns"] == 3e4 and document["in_context"][0]["config"] == {"rows": 8}
    autotune("tune", tiny_qwen3, "--device", "cuda:0", "--op", "head", "--budget", "0", "--context", "100")
    assert [p.op for p in asked[2]["problems"]] == ["head"] and asked[2]["layers"] == [] and not asked[2]["passes"]
    assert {p.rows_at_once for p in asked[0]["passes"]} == {16, 64, 256} and document["passes"]
    assert "Tuned, many tokens at once" in result.stdout
    assert asked[2]["budget_s"] is None


def test_energy_is_an_objective_where_it_is_counted(autotune, complaint, monkeypatch, tiny_qwen3, fake_gpu) -> None:
    import fake_nvml

    asked: list = []

    def tune(problems, layers, db, target, settings, timeline, passes):
        asked.append(target.objective)
        return [
            Tuned(p, {"rows": 4}, took(1.5e3, 512.5), took(3e3, 1024.0), 30_000, 20e9 / 0.7, 9, 1, "searched", n)
            for p, n in problems.items()
        ], []

    monkeypatch.setattr(tune_model, "tune", tune)
    monkeypatch.setattr(machine, "uuid", lambda index=0: "1")
    tune_words = ("tune", tiny_qwen3, "--device", "cuda:0", "--objective")
    counts = fake_nvml.module(energy=1000)
    for name in ("nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption", "NVMLError"):
        monkeypatch.setattr(f"pynvml.{name}", getattr(counts, name))
    result = autotune(*tune_words, "energy")
    assert result.exit_code == 0 and "512.5" in result.stdout and "1024.0" in result.stdout, result.stderr
    document = json.loads(autotune(*tune_words, "edp", "--json").stdout)
    assert document["objective"] == "edp" and document["tuned"][0]["best_uj"] == 512.5
    assert asked == ["energy", "edp"]
    monkeypatch.setattr(
        "pynvml.nvmlDeviceGetTotalEnergyConsumption", fake_nvml.module().nvmlDeviceGetTotalEnergyConsumption
    )
    monkeypatch.setattr("pynvml.NVMLError", fake_nvml.NVMLError)
    assert "device cuda:0 does not report its energy; use --objective time" in complaint(*tune_words, "energy")
    assert "device cpu does not report its energy" in complaint("tune", tiny_qwen3, "--objective", "edp")


def test_an_interrupt_in_context_shows_both_tables(autotune, monkeypatch, tiny_qwen3, fake_gpu) -> None:
    def tune(problems, layers, db, target, *_):
        measured = Measurement(400.0, 500.0, 600.0, 9)
        for problem in (next(iter(problems)), layers[0]):
            winner = Winner(problem.key, problem.template_version, {"rows": 4}, measured, 1000.0, 0.0, 1.0)
            db.set_winner(target.device, winner, None, None)
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_model, "tune", tune)
    result = autotune("tune", tiny_qwen3, "--device", "cuda:0")
    assert result.exit_code == 130 and "Kept so far, each alone" in result.stdout
    assert "Kept so far, in context" in result.stdout and "2 of " in result.stderr


def test_devices(autotune, monkeypatch) -> None:
    forced: list[bool] = []

    def known_or_measured(db, device, force=False, index=0):
        forced.append(force)
        return LIMITS

    monkeypatch.setattr(ceilings, "known_or_measured", known_or_measured)
    monkeypatch.setattr(machine, "count", lambda: 0)
    monkeypatch.setattr(machine, "listed", lambda: ([], "NVML Shared Library Not Found"))
    document = json.loads(autotune("devices", "--json").stdout)
    assert document["devices"][0]["ceilings"]["read_gb_s"] == 31.5 and document["devices"][0]["name"] == "cpu"
    assert document["unusable_gpus"] == []
    result = autotune("devices", "--measure")
    assert "31.5 GB/s" in result.stdout and "measuring" in result.stderr and forced == [False, True]
    assert "no NVIDIA GPU (NVML Shared Library Not Found)" in result.stdout


def test_devices_with_gpus(autotune, monkeypatch, fake_gpu) -> None:
    def check(index: int = 0) -> None:
        if index == 1:
            raise machine.DeviceError("GTX 1080 has compute capability 6.1; too old")

    measured: list[tuple[str, int]] = []
    monkeypatch.setattr(ceilings, "_measure", lambda d, index: measured.append((d.backend, index)) or dict(LIMITS))
    monkeypatch.setattr(machine, "count", lambda: 2)
    monkeypatch.setattr(machine, "check", check)
    monkeypatch.setattr(machine, "listed", lambda: (["Fake 100", "GTX 1080"], ""))
    result = autotune("devices")
    assert "Fake 100" in result.stdout and "multiprocessors" in result.stdout
    assert "cuda:1: GTX 1080 (GTX 1080 has compute capability 6.1; too old)" in result.stdout
    document = json.loads(autotune("devices", "--json").stdout)
    assert [d["name"] for d in document["devices"]] == ["cpu", "cuda:0"]
    assert document["unusable_gpus"][0]["name"] == "cuda:1"
    assert measured == [("cpu", 0), ("cuda", 0)]  # remembered


@pytest.mark.slow
def test_for_real(autotune, tiny_model) -> None:
    """Tune, use and measure one operation of a tiny model; nothing is a stand-in."""
    result = autotune("tune", tiny_model, "--op", "head", "--trials", "2", "--budget", "20", "--json")
    (row,) = json.loads(result.stdout)["tuned"]
    assert result.exit_code == 0 and row["problem"].startswith("head:") and row["best_ns"] <= row["default_ns"]
    document = json.loads(autotune("generate", tiny_model, "-p", "a", "-n", "1", "--json").stdout)
    assert {k["source"] for k in document["kernels"]} == {"exact", "default"}
    report = autotune("bench", tiny_model, "--prompt", "16", "--tokens", "4", "--runs", "1")
    assert report.exit_code == 0 and "head:vocab=512" in report.stdout
    assert json.loads(autotune("db", "best", "head", "--json").stdout)["winners"][0]["config"] == row["config"]
