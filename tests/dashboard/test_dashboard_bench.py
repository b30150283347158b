"""Benchmark files on the pages: the CPU's as the GPU's; and each value replaced by whatever JSON can say."""

import json

from dashboard_samples import bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_values import VALUES, places, put

from autotune import UserError
from autotune.benchmarking.benchmark_result import Decode, KernelTime, ModelBenchmark, Side
from autotune.dashboard import build

WHOLE = {**bench(), "speedups": {"0": {"ratios": [1.1, 1.2], "alternating": True}}}


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_anywhere(folder, small_db, data) -> None:
    path = folder / "changed.json"
    path.write_text(json.dumps(put(WHOLE, data.draw(st.sampled_from(list(places(WHOLE)))), data.draw(VALUES))))
    try:
        assert "<html" in build.html(small_db, None, [path])
        build.trace(small_db, [path])
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 500


def test_the_cpu_s_benchmark(autotune, folder, small_db) -> None:
    def side(scale: float) -> Side:
        rows = (KernelTime("matvec:rows=64,cols=64,format=Q4_0,activation=int16", 30, 900.0 * scale, 90_000_000),
                KernelTime(KernelTime.TOKEN, 211, 5000.0 * scale, None))  # fmt: skip
        return Side(100.0 / scale, {0: Decode(200.0 / scale, (190.0, 210.0), 95_000_000, 211)}, rows)

    result = ModelBenchmark(
        "smollm2.gguf", "Some Xeon", "abc", 20.0, side(2.0), side(1.0), {"numba": "0.61"},
        {"prompt": 512, "captured_alone": False},
    )  # fmt: skip
    path, page = folder / "cpu.json", folder / "cpu.html"
    path.write_text(json.dumps(result.document()))
    assert autotune("dashboard", "-o", page, "--db", small_db, "--bench", path).exit_code == 0
    assert "Some Xeon" in page.read_text()
