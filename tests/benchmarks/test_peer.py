"""What the comparison with llama.cpp rests on, without llama.cpp: build flags, the workers' protocol, the distance."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def test_build_flags_name_what_is_there_and_never_amx() -> None:
    from peer.build import cmake_args

    wide = "avx avx2 fma f16c bmi2 avx512f avx512cd avx512vl avx512dq avx512bw avx512_vnni avx_vnni amx_int8 amx_bf16"
    assert cmake_args(f"processor : 0\nflags\t\t: {wide}\n") == [
        "-DGGML_NATIVE=OFF",
        *(f"-DGGML_{name}=ON" for name in ("AVX", "AVX2", "FMA", "F16C", "BMI2", "AVX512", "AVX512_VNNI")),
    ]
    assert cmake_args("flags : avx avx2 avx_vnni avx512f")[1:] == [
        "-DGGML_AVX=ON",
        "-DGGML_AVX2=ON",
        "-DGGML_AVX_VNNI=ON",
    ]
    assert cmake_args("Features : asimd") == ["-DGGML_NATIVE=OFF"]


def test_our_worker(tiny_model: Path, tmp_path: Path) -> None:
    from peer.child import Child, WorkerError

    import model

    out = tmp_path / "logits.npy"
    prompt = [5, 6, 7, 8, 9]
    with Child(sys.executable, "our_worker.py") as worker:
        with pytest.raises(WorkerError, match=r"could not 'open': ModelError: .*no such file"):
            worker.ask("open", path=str(tmp_path / "none.gguf"), threads=1, context=64, db=None, tuned=False)
        opened = worker.ask("open", path=str(tiny_model), threads=1, context=64, db=None, tuned=False)
        assert opened["kernels"] and {"numba", "torch"} <= opened["versions"].keys()
        decoded = worker.ask("decode", prompt=prompt, tokens=8)
        assert decoded["steps"] == 8 and decoded["seconds"] > 0 and len(decoded["text"]) == 8
        assert worker.ask("prefill", tokens=prompt)["seconds"] > 0
        texts = worker.ask("greedy", prompts=[[5, 6], [7]], tokens=8)["tokens"]
        assert [len(tokens) for tokens in texts] == [8, 8]
        worker.ask("logits", tokens=prompt, stepwise=True, out=str(out))
        assert worker.cpu_seconds() > 0
    engine = model.load(tiny_model, threads=1, context=64)
    try:
        np.testing.assert_allclose(np.load(out), engine.logits(prompt, stepwise=True), rtol=1e-6)
    finally:
        engine.close()


def test_a_results_file_is_replaced_whole(tmp_path: Path) -> None:
    from peer import facts

    path = tmp_path / "new" / "results.json"
    facts.write(path, {"a": 1})
    with pytest.raises(TypeError):
        facts.write(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
