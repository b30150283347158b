"""An architecture is its declaration: nothing else names it, and a new combination of traits runs without more."""

import ast
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import model
from model import architectures, layer_plan
from model.architectures import ARCHITECTURES
from model.config import ModelConfig
from model.gguf_file import open_gguf
from model.reference import reference_logits
from model.sampling import Sampler

ROOT = Path(__file__).resolve().parents[2]
DECLARED = Path(architectures.__file__).parent


def test_each_file_declares_the_architecture_that_it_is_named_after() -> None:
    files = {path.stem for path in DECLARED.glob("*.py")} - {"__init__", "base"}
    assert {name.replace("-", "_") for name in ARCHITECTURES} == files and {"llama", "qwen3"} <= files
    assert all(name == architecture.name for name, architecture in ARCHITECTURES.items())


def test_no_other_file_names_an_architecture() -> None:
    found = []
    for package in ("model", "kernel_templates", "tuning_db", "autotune"):
        for path in sorted((ROOT / package).rglob("*.py")):
            constants = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
            lines = [node.lineno for node in constants if node.value in ARCHITECTURES]
            # Pre-tokenizers are called after models too.
            if path.parent != DECLARED and path.name not in ("tokenizer.py", "pre_tokenizers.py"):
                found += [f"{path.relative_to(ROOT)}:{line}" for line in lines]
    assert not found, found


def test_every_tensor_belongs_to_a_step_and_every_step_to_the_registry(made_up: Path) -> None:
    config = ModelConfig.from_gguf(open_gguf(made_up))
    plan = layer_plan.plan(config)
    operations = [step.link.operation.name for step in plan.layers[1].steps]
    assert operations == ["norm_qkv_rope", "attention", "matvec", "ffn"]
    qkv, _, out, ffn = plan.layers[1].steps
    assert qkv.weights["k"].name == "blk.1.attn_k.weight" and qkv.weights["k"].shape == (64, 256)
    assert [t.name for t in out.weights.values()] == ["blk.1.attn_output.weight"]
    assert ffn.link.bound({"ffn_norm": 1, "x": 2}) == {"ffn_norm": 1, "x": 2, "norm": 1}
    assert ("q_norm" in qkv.vectors) == config.architecture.qk_norm
    turned = {part.name for layer in plan.layers for t in layer.tensors.values() for part in t.parts if part.pairs}
    normed = ["attn_q", "attn_k", "attn_q_norm", "attn_k_norm"]
    expected = {f"blk.{i}.{name}.weight" for i in range(2) for name in normed}
    assert turned == (expected if config.architecture.rope == "pairs" else set())


def test_a_made_up_architecture_runs(made_up: Path) -> None:
    """Decode, prefill and text of an architecture that this test alone declares, against the judge."""
    tokens = np.random.default_rng(0).integers(0, 512, 23).tolist()
    wanted = reference_logits(made_up, tokens).numpy()
    with closing(model.load(made_up)) as engine:
        normed = engine.config.architecture.qk_norm
        for stepwise, bound in ((True, 1e-2 if normed else 2e-3), (False, 8e-2 if normed else 3e-2)):
            found = engine.logits(tokens, stepwise)
            off = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
            print(f"{engine.config.architecture.name}, stepwise={stepwise}: {off:.2g}")
            assert off < bound
        text = list(engine.generate_tokens(tokens, 3, Sampler(), ignore_end=True))
    after = reference_logits(made_up, [*tokens, *text[:-1]]).numpy()[len(tokens) - 1 :]
    assert (after.max(1) - after[np.arange(3), text] < 0.25).all()  # the likeliest, or next to it within the error


def test_traits_matter(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file read under a wrong declaration gives other logits, or is refused for tensors that do not fit."""
    file, tokens = open_gguf(made_up), [7, 300, 7, 12]
    config = ModelConfig.from_gguf(file)
    wanted = reference_logits(file, tokens)
    name = config.architecture.name
    other = "halves" if config.architecture.rope == "pairs" else "pairs"
    monkeypatch.setitem(ARCHITECTURES, name, replace(config.architecture, rope=other))
    assert float((reference_logits(file, tokens) - wanted).norm() / wanted.norm()) > 0.05
    with closing(model.load(made_up)) as engine:
        turned = engine.logits(tokens, stepwise=True)
    assert float(np.linalg.norm(turned - wanted.numpy()) / np.linalg.norm(wanted.numpy())) > 0.05
    monkeypatch.setitem(ARCHITECTURES, name, replace(config.architecture, qk_norm=not config.architecture.qk_norm))
    with pytest.raises(model.ModelError, match=r"attn_q_norm\.weight|attn_k_norm\.weight"):
        ModelConfig.from_gguf(file)
