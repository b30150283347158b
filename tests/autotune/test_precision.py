"""Where precision goes: numbers against known ones, each operation alone, a planted error that must be named."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import model
from autotune.cli import cli
from autotune.peer import llama_process
from autotune.precision import beside, divergence, extremes, model_precision, precision_result
from autotune.precision.divergence import reference_rows
from autotune.precision.precision_result import ModelPrecision, OperationError
from model.engine import Model
from model.errors import ModelError
from model.gguf_file import open_gguf
from model.reference import reference_hidden, reference_logits

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "models"
QWEN3, GEMMA3, LLAMA = (FIXTURES / f"{name}.gguf" for name in ("qwen3", "gemma3", "llama-yarn"))
TOKENS = [5, 77, 12, 300, 301, 9, 450, 13, 99, 7, 8]
DECODE, PROMPT = 2e-3, 3e-2  # of an operation alone: activations in 16 bits and a cache in float16


@contextmanager
def opened(path: Path) -> Iterator[Model]:
    file = open_gguf(path)
    with closing(model.load(path, context=model_precision.context_for(file, TOKENS), threads=1)) as engine:
        yield engine


def measured(engine: Model) -> ModelPrecision:
    return model_precision.measure(engine, "m.gguf", TOKENS, "a chip")


def test_divergence_of_known_distributions() -> None:
    wanted = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log() + 3  # logits are free up to a constant
    found = np.log(np.array([[0.25, 0.75], [0.9, 0.1]], np.float32))
    first = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)
    same = divergence.divergence(wanted, wanted.numpy())
    assert (same.top1, same.mean_kl, same.max_kl) == (1.0, 0.0, 0.0)
    far = divergence.divergence(wanted, found)
    assert (far.tokens, far.top1) == (2, 0.5)
    assert [far.mean_kl, far.p99_kl, far.max_kl] == pytest.approx([first / 2, 0.99 * first, first], rel=1e-6)


def test_divergence_of_a_side_that_ends_early() -> None:
    with pytest.raises(ValueError, match="shorter"):
        divergence.divergence(torch.zeros(3, 4), np.zeros((2, 4), np.float32))


def test_the_reference_in_blocks_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    file = open_gguf(QWEN3)
    monkeypatch.setattr(divergence, "BLOCK_BYTES", 4 * 4 * file.tensors["token_embd.weight"].shape[0])
    rows = list(reference_rows(file, reference_hidden(file, TOKENS)))
    torch.testing.assert_close(torch.stack(rows), reference_logits(file, TOKENS), rtol=1e-5, atol=1e-5)


def test_rows_of_logits_are_the_logits() -> None:
    with opened(QWEN3) as engine:
        for stepwise in (True, False):
            rows = np.stack([row.copy() for row in engine.logit_rows(TOKENS, stepwise)])
            np.testing.assert_array_equal(rows, engine.logits(TOKENS, stepwise))


@pytest.mark.parametrize("name", ["llama-yarn", "gemma3", "gemma4", "qwen2", "phi3"])
def test_every_operation_alone_is_close(name: str) -> None:
    """Pairs of neighbours; norms after, windows and a scaled embedding; layers whose heads differ; biases; tensors in
    one."""
    with opened(FIXTURES / f"{name}.gguf") as engine:
        result, layers = measured(engine), engine.config.layers
    for path, bound in (("decode", DECODE), ("prompt", PROMPT)):
        rows = [row for row in result.operations if row.path == path]
        names = {(row.operation, row.output) for row in rows if row.layer is not None}
        assert len(names) == 7 and len([row for row in rows if row.layer is not None]) == 7 * layers
        assert all(0 <= row.error <= row.worst < bound for row in rows), [row for row in rows if row.worst >= bound]
    assert [row.layer for row in result.operations if row.operation == "head"] == [None]
    assert {row.path: row.divergence.top1 for row in result.engines}["decode"] > 0.9


@pytest.mark.parametrize(("name", "layers"), [("qwen35-f16", 3), ("gemma4-per-layer", 7)])
def test_layers_whose_operations_are_not_measured_alone_are_named(name: str, layers: int) -> None:
    """Their logits and activations are measured like those of others."""
    with opened(FIXTURES / f"{name}.gguf") as engine:
        result = measured(engine)
    assert {row.operation for row in result.operations} == {"head"} and len(result.activations) > 0
    assert result.notes[0].startswith(f"operations of {layers} of {layers} layers are not measured alone")
    assert {row.path: row.divergence.top1 for row in result.engines}["decode"] > 0.9


@pytest.mark.parametrize(
    ("path", "buffer", "operation"),
    [
        (QWEN3, "k_norm", "norm_qkv_rope (keys)"),
        (QWEN3, "q_norm", "norm_qkv_rope (queries)"),
        (QWEN3, "ffn_norm", "ffn"),
        (GEMMA3, "post_attn_norm", "matvec out"),
    ],
)
def test_a_planted_error_is_named(path: Path, buffer: str, operation: str) -> None:
    """One weight of one norm of one layer, off by a quarter: the operation that reads it and its layer come first."""
    with opened(path) as engine:
        clean = measured(engine)
        engine.runner.decoder.layers[1].buffers[buffer][3] *= 1.25
        result = measured(engine)
    for way in ("decode", "prompt"):
        first, second = result.ranked(way)[:2]
        assert (first.name, first.layer) == (operation, 1)
        assert first.error > 2 * second.error
        assert (clean.ranked(way)[0].name, clean.ranked(way)[0].layer) != (operation, 1) or (
            clean.ranked(way)[0].error < first.error / 2
        )
    assert f"{operation} of layer 1" in result.answer


def test_extreme_weights_and_activations_are_named(tiny_qwen3: Path) -> None:
    norms = {row.tensor: row for row in extremes.norm_weights(open_gguf(tiny_qwen3))}
    top = norms["blk.0.attn_k_norm.weight"]
    weights = open_gguf(tiny_qwen3).raw(top.tensor).view(np.float32).reshape(-1)
    assert top.layer == 0 and top.weight == np.float32(96.5) == weights[top.channel]
    assert top.ratio == pytest.approx(96.5 / float(np.median(np.abs(weights))))
    assert max(norms.values(), key=lambda row: row.ratio) is top and norms["output_norm.weight"].layer is None
    with opened(QWEN3) as engine:
        found = measured(engine).activations
    kept = []
    reference_hidden(open_gguf(QWEN3), TOKENS, None, lambda layer, trace: kept.append(trace.after))
    for row, x in zip(found, kept, strict=True):
        assert row.value == float(x[row.position, row.channel]) and abs(row.value) == float(x.abs().max())
        assert row.rms == pytest.approx(float(x.square().mean().sqrt()))


def test_a_result_survives_its_document() -> None:
    with opened(QWEN3) as engine:
        result = measured(engine)
    assert precision_result.parse(json.loads(json.dumps(result.document()))) == result
    nothing = precision_result.parse({**result.document(), "operations": [], "engines": []})
    assert nothing.answer == ""


def test_an_error_that_is_not_a_number_is_the_largest() -> None:
    rows = [OperationError("decode", 0, "ffn", "", error, error, 0) for error in (0.1, float("nan"), 0.2)]
    result = ModelPrecision("m", "c", (), tuple(rows), (), ())
    assert result.ranked("decode")[0] is rows[1]


def test_files_side_by_side(made: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_process, "installed", lambda: False)
    small, large = made("tiny-qwen3", "Q4_0"), made("tiny-qwen3", "F32")
    found = beside.compare((small, large), TOKENS, lambda path: model.load(path, context=64, threads=1))
    assert found.reference == large.name and [row.file for row in found.files] == [small.name, large.name]
    first, second = found.files
    assert first.bits_per_weight < second.bits_per_weight == 32
    assert (first.file_bytes, second.file_bytes) == (small.stat().st_size, large.stat().st_size)
    assert first.divergence.mean_kl > 10 * second.divergence.mean_kl
    assert all(row.decode_tok_s > 0 for row in found.files)


def test_files_of_two_models_are_not_compared(tiny_qwen3: Path) -> None:
    files = {path: open_gguf(path) for path in (tiny_qwen3, GEMMA3)}
    with pytest.raises(ModelError, match=r"gemma3.gguf is not of the model of .*: it has another architecture"):
        beside.check_one_model(files, TOKENS)


needs_llama_cpp = pytest.mark.skipif(not llama_process.installed(), reason="needs xllamacpp: ./scripts/setup_env peer")


@needs_llama_cpp
def test_llama_cpp_beside_ours() -> None:
    with opened(QWEN3) as engine:
        result = model_precision.measure(engine, "m.gguf", TOKENS, "a chip", QWEN3)
    theirs = {row.path: row.divergence for row in result.engines if row.engine == "llama.cpp"}
    assert theirs.keys() == {"decode", "prompt"} and not result.notes
    assert all(0 < row.mean_kl < 0.01 and row.tokens == len(TOKENS) for row in theirs.values())


@needs_llama_cpp
def test_what_llama_cpp_cannot_open_is_one_line(tmp_path: Path) -> None:
    none = tmp_path / "none.gguf"
    refused = pytest.raises(llama_process.PeerError, match="could not be loaded")
    with refused, llama_process.opened(none, TOKENS, 512, 1):
        pass


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "none.db"))
    monkeypatch.setattr(llama_process, "installed", lambda: False)

    def call(*words: object) -> Result:
        result = CliRunner().invoke(cli, ["precision", *map(str, words)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def test_the_command(command: Callable[..., Result], tmp_path: Path) -> None:
    printed = command(QWEN3, "--tokens", 12)
    assert printed.exit_code == 0 and "llama.cpp is not installed" in printed.stderr
    assert printed.stdout.startswith("Of qwen3.gguf's operations run alone, what errs most: in decode steps")
    for title in ("logits of 12 tokens", "Operations alone", "Extreme norm weights", "Extreme activations"):
        assert title in printed.stdout
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(QWEN3.read_bytes())
    asked = command(QWEN3, "--tokens", 12, "--beside", copy, "--json")
    result = precision_result.parse(json.loads(asked.stdout))
    assert [row.file for row in result.beside.files] == ["qwen3.gguf", "copy.gguf"]
    own = next(row.divergence for row in result.engines if row.path == "decode")
    assert {row.divergence for row in result.beside.files} == {own}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((QWEN3, "--text", "{folder}/none.txt"), "none.txt"),
        ((QWEN3, "--text", "{folder}/bytes.txt"), "is not in UTF-8"),
        ((QWEN3, "--text", "{folder}/empty.txt"), "tokens for this model; give one of two or more"),
        (("{folder}/none.gguf",), "none.gguf"),
        ((QWEN3, "--beside", "{folder}/bytes.txt"), "bytes.txt"),
        ((QWEN3, "--beside", FIXTURES / "gemma3.gguf"), "it has another architecture"),
    ],
)
def test_what_a_user_can_do_wrong_is_one_line(
    command: Callable[..., Result], tmp_path: Path, words: tuple, says: str
) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.txt").write_text("")
    result = command(*(str(word).format(folder=tmp_path) for word in words))
    assert result.exit_code == 2 and says in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("autotune: error: ")
