"""Configurations of honest files, and every way metadata and tensors can disagree."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
from forged_metadata import assert_refused, changed

from kernel_templates.gated_delta.problem import GatedDelta
from model import config as config_module
from model.architectures import ARCHITECTURES
from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_file import GGUFFile, TensorInfo, open_gguf
from model.gguf_metadata import Metadata
from model.layer_plan import Rope, plan
from model.layer_sizes import LayerSizes, Mixture
from model.rope import Scaling


@pytest.fixture
def tiny(tiny_model: Path) -> GGUFFile:
    return open_gguf(tiny_model)


def test_real_model(real_model: Path) -> None:
    config = ModelConfig.from_gguf(open_gguf(real_model))
    assert config == ModelConfig(
        architecture=ARCHITECTURES["llama"],
        hidden=576,
        sizes=(LayerSizes(heads=9, kv_heads=3, head_dim=64, rope_dim=64, ffn=1536),) * 30,
        vocab=49152,
        context=8192,
        norm_eps=pytest.approx(1e-5),
        rope_base=100000.0,
        tied=True,
        rope_freqs=False,
    )


def test_qwen3(tiny_qwen3: Path) -> None:
    file = open_gguf(tiny_qwen3)
    config = ModelConfig.from_gguf(file)
    assert config.architecture is ARCHITECTURES["qwen3"] and config.tied
    assert (config.layer(0).q_rows, config.hidden) == (128, 256)
    assert [tensor.name for tensor in plan(config).tensors()] == list(file.tensors)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"block_count": None}, "llama.block_count"),
        ({"block_count": 0}, "llama.block_count"),
        ({"block_count": 1000}, "1000 layers"),
        ({"block_count": 1}, "blk.1."),
        ({"block_count": "2"}, "llama.block_count"),
        ({"block_count": True}, "llama.block_count"),
        ({"embedding_length": 96}, "token_embd.weight"),
        ({"embedding_length": 1 << 31}, "embedding_length"),
        ({"feed_forward_length": 160}, "ffn_gate"),
        ({"feed_forward_length": 130}, "multiple of 32"),
        ({"attention__head_count": 2}, "attn_k.weight"),
        ({"attention__head_count": 3, "attention__head_count_kv": 2}, "evenly"),
        ({"attention__head_count_kv": np.array([2, 1])}, "blk.1.attn_k.weight"),
        ({"attention__head_count": np.array([4, 2])}, "differs between layers (4 in layer 0, 2 in layer 1)"),
        ({"attention__head_count_kv": np.array([2, 2, 2])}, "each of 2 layers"),
        ({"attention__head_count_kv": np.array([2.0, 2.0])}, "each of 2 layers"),
        ({"feed_forward_length": np.array([7, 7])}, "feed_forward_length' is '7', not a number from 32"),
        ({"attention__head_count_kv": 9}, "head_count_kv"),
        ({"attention__key_length": 15, "attention__value_length": 15, "rope__dimension_count": None}, "even"),
        ({"attention__key_length": 32}, "different head sizes"),
        ({"attention__value_length": 99999}, "value_length"),
        ({"attention__layer_norm_rms_epsilon": None}, "epsilon"),
        ({"attention__layer_norm_rms_epsilon": float("nan")}, "epsilon"),
        ({"rope__freq_base": -1.0}, "freq_base"),
        ({"rope__freq_base": float("inf")}, "freq_base"),
        ({"rope__dimension_count": 64}, "dimension_count"),
        ({"rope__scaling__type": "dynamic", "rope__scaling__factor": 4.0}, "'dynamic'"),
        ({"rope__scaling__type": "yarn", "rope__scaling__factor": -4.0}, "scaling.factor"),
        ({"rope__scaling__factor": 1e-30}, "rope.scaling.factor"),
        ({"rope__scale_linear": 1e-320}, "rope.scale_linear"),
        ({"rope__scaling__factor": float("inf")}, "rope.scaling.factor"),
        ({"rope__scaling__type": 3}, "scaling.type"),
        ({"attention__sliding_window": 16, "attention__sliding_window_pattern": np.array([True])}, "each of 2 layers"),
        ({"attn_logit_softcapping": float("nan")}, "softcapping"),
        ({"attn_logit_softcapping": -1.0}, "softcapping"),
        ({"final_logit_softcapping": 1e30}, "softcapping"),
        ({"expert_count": 8}, "experts"),
        ({"vocab_size": 7}, "vocabulary sizes"),
        ({"context_length": 0}, "context_length"),
    ],
)
def test_metadata_that_does_not_fit(tiny: GGUFFile, keys: dict[str, Any], named: str) -> None:
    assert_refused(changed(tiny, **keys), named)


@pytest.fixture(scope="module")
def qwen35() -> GGUFFile:
    return open_gguf(Path(__file__).resolve().parents[1] / "fixtures" / "models" / "qwen35.gguf")


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"ssm.conv_kernel": None}, "qwen35.ssm.conv_kernel"),
        ({"ssm.conv_kernel": 0}, "qwen35.ssm.conv_kernel"),
        ({"ssm.conv_kernel": 1 << 31}, "qwen35.ssm.conv_kernel"),
        ({"ssm.conv_kernel": 5}, "blk.0.ssm_conv1d.weight"),
        ({"ssm.state_size": 1 << 20}, "qwen35.ssm.state_size"),
        ({"ssm.state_size": 32}, "ssm.inner_size' is 256, not 4 heads of 32"),
        ({"ssm.inner_size": 512}, "ssm.inner_size' is 512"),
        ({"ssm.time_step_rank": 1000, "ssm.inner_size": 64000}, "blk.0.attn_qkv.weight"),
        ({"ssm.time_step_rank": 3, "ssm.inner_size": 192}, "evenly"),
        ({"ssm.group_count": 0}, "qwen35.ssm.group_count"),
        ({"ssm.group_count": 4}, "blk.0.attn_qkv.weight"),
        ({"full_attention_interval": 0, "attention.recurrent_layers": None}, "full_attention_interval"),
        ({"full_attention_interval": 2, "attention.recurrent_layers": None}, "blk.1."),
        ({"attention.recurrent_layers": True}, "each of 4 layers"),
        ({"attention.recurrent_layers": np.array([True, False])}, "each of 4 layers"),
        ({"attention.recurrent_layers": np.ones(4, bool)}, "blk.3."),
        ({"nextn_predict_layers": 4}, "nextn_predict_layers"),
        ({"nextn_predict_layers": -1}, "nextn_predict_layers"),
        ({"nextn_predict_layers": 1 << 40}, "nextn_predict_layers"),
        ({"rope.dimension_count": 128}, "rope.dimension_count"),
    ],
)
def test_states_that_do_not_fit(qwen35: GGUFFile, keys: dict[str, Any], named: str) -> None:
    assert_refused(changed(qwen35, **keys), named)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"nextn_predict_layers": 1}, "qwen3moe.nextn_predict_layers"),
        ({"expert_count": None}, "qwen3moe.expert_count"),
        ({"expert_count": 0}, "qwen3moe.expert_count"),
        ({"expert_count": 1 << 31}, "qwen3moe.expert_count"),
        ({"expert_count": 5}, "blk.0.ffn_gate_inp.weight"),
        ({"expert_used_count": None}, "qwen3moe.expert_used_count"),
        ({"expert_used_count": 0}, "qwen3moe.expert_used_count"),
        ({"expert_used_count": 9}, "qwen3moe.expert_used_count"),
        ({"expert_count": 4096, "expert_used_count": 65}, "expert_used_count' is '65', not a number from 1 to 64"),
        ({"expert_feed_forward_length": 40}, "qwen3moe.expert_feed_forward_length' is 40"),
        ({"expert_feed_forward_length": 1 << 30}, "qwen3moe.expert_feed_forward_length"),
        ({"expert_feed_forward_length": 64}, "blk.0.ffn_gate_exps.weight"),
        ({"expert_feed_forward_length": None, "feed_forward_length": 512}, "expert_feed_forward_length' is 170"),
    ],
)
def test_experts_that_do_not_fit(made: Callable[[str, str], Path], keys: dict[str, Any], named: str) -> None:
    file = open_gguf(made("tiny-qwen3moe", "Q4_0"))  # 8 experts, of which a token uses 3
    assert_refused(changed(file, **keys), named)


@pytest.fixture(scope="module")
def qwen35moe() -> GGUFFile:
    return open_gguf(Path(__file__).resolve().parents[1] / "fixtures" / "models" / "qwen35moe.gguf")


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"expert_shared_feed_forward_length": None}, "qwen35moe.expert_shared_feed_forward_length"),
        ({"expert_shared_feed_forward_length": 0}, "qwen35moe.expert_shared_feed_forward_length"),
        ({"expert_shared_feed_forward_length": 1 << 31}, "qwen35moe.expert_shared_feed_forward_length"),
        ({"expert_shared_feed_forward_length": "256"}, "qwen35moe.expert_shared_feed_forward_length"),
        ({"expert_shared_feed_forward_length": 40}, "expert_shared_feed_forward_length' is 40"),
        ({"expert_shared_feed_forward_length": 64}, "blk.0.ffn_gate_shexp.weight"),
        ({"expert_shared_count": 2}, "qwen35moe.expert_shared_count"),
        ({"expert_count": 8}, "blk.0.ffn_gate_inp.weight"),
        ({"expert_used_count": 5}, "qwen35moe.expert_used_count"),
        ({"ssm.conv_kernel": 5}, "blk.0.ssm_conv1d.weight"),
        ({"ssm.inner_size": 512}, "ssm.inner_size' is 512"),
    ],
)
def test_shared_experts_that_do_not_fit(qwen35moe: GGUFFile, keys: dict[str, Any], named: str) -> None:
    assert_refused(changed(qwen35moe, **keys), named)


def test_a_shared_expert(qwen35moe: GGUFFile) -> None:
    """In layers with mixers of both kinds. Its gate is one row, which is stored as a vector or as a matrix."""
    config, name = ModelConfig.from_gguf(qwen35moe), "blk.1.ffn_gate_inp_shexp.weight"
    assert [sizes.mixer for sizes in config.sizes] == ["gated_delta", "attention"]
    mixture = Mixture(4, 2, "softmax", normalized=True, shared_ffn=256, shared_gated=True)
    assert {sizes.mixture for sizes in config.sizes} == {mixture}
    gate = qwen35moe.tensors[name]

    def with_gate(**changes: Any) -> ModelConfig:
        return ModelConfig.from_gguf(replace(qwen35moe, tensors={**qwen35moe.tensors, name: replace(gate, **changes)}))

    assert gate.shape == (256,) and with_gate(shape=(1, 256)) == config
    for shape in ((2, 256), (256, 1), (1, 1, 256), (224,)):
        with pytest.raises(ModelError, match=f"'{name}' has shape"):
            with_gate(shape=shape)
    with pytest.raises(ModelError, match="the gates of layer 1 are stored as BF16 and F32"):
        with_gate(format_name="BF16")
    counted = replace(qwen35moe, metadata=dict(qwen35moe.metadata) | {"qwen35moe.expert_shared_count": 1})
    assert ModelConfig.from_gguf(counted) == config


def test_which_layers_are_gated_delta_nets(qwen35: GGUFFile) -> None:
    """Three of four; flags of the file, which newer converters write, say it too."""
    config = ModelConfig.from_gguf(qwen35)
    assert [sizes.mixer for sizes in config.sizes] == ["gated_delta"] * 3 + ["attention"]
    assert config.layer(0).delta == GatedDelta(heads=4, key_heads=2, head_dim=64, kernel=4)
    bare = {k: v for k, v in qwen35.metadata.items() if not k.endswith(("recurrent_layers", "attention_interval"))}
    flags = {"qwen35.attention.recurrent_layers": np.array([True, True, True, False])}
    for metadata in (bare, bare | flags, bare | {"qwen35.full_attention_interval": 4}):
        assert ModelConfig.from_gguf(replace(qwen35, metadata=metadata)) == config


def test_parts_that_text_does_not_need_are_named_and_left_alone(qwen35: GGUFFile) -> None:
    """A block that predicts further, as published files have it behind the layers, and parts that see."""
    some = qwen35.tensors["output_norm.weight"]
    names = ("v.blk.0.ln1.weight", "mm.0.bias", "blk.4.nextn.eh_proj.weight", "blk.4.attn_q.weight")
    more = dict.fromkeys(names, some)
    metadata = dict(qwen35.metadata) | {"qwen35.block_count": 5, "qwen35.nextn_predict_layers": 1}
    metadata.pop("qwen35.attention.recurrent_layers", None)
    file = replace(qwen35, metadata=metadata, tensors={**qwen35.tensors, **more})
    config = ModelConfig.from_gguf(file)
    assert config.layers == 4
    assert config.left_alone == ("2 tensors that see images", "2 tensors that predict tokens beyond the next")
    behind = {**file.tensors, "blk.5.attn_q.weight": some}
    with pytest.raises(ModelError, match=r"'blk\.5\.attn_q\.weight' is not part"):
        ModelConfig.from_gguf(replace(file, tensors=behind))


def test_gates_of_two_types_are_refused(qwen35: GGUFFile) -> None:
    name = "blk.1.ssm_alpha.weight"
    tensors = {**qwen35.tensors, name: replace(qwen35.tensors[name], format_name="F32")}
    with pytest.raises(ModelError, match="the gates of layer 1 are stored as F32 and Q4_K"):
        ModelConfig.from_gguf(replace(qwen35, tensors=tensors))


def test_harmless_rope_scaling(tiny: GGUFFile) -> None:
    plain = ModelConfig.from_gguf(tiny)
    assert ModelConfig.from_gguf(changed(tiny, rope__scaling__type="none", rope__scaling__factor=4.0)) == plain
    assert ModelConfig.from_gguf(changed(tiny, rope__scaling__type="linear", rope__scaling__factor=1.0)) == plain


def test_what_all_layers_share_may_be_given_for_each(tiny: GGUFFile) -> None:
    each = {"attention__head_count": 4, "attention__head_count_kv": 2, "feed_forward_length": 128}
    arrays = changed(tiny, **{key: np.array([value, value], np.uint32) for key, value in each.items()})
    assert ModelConfig.from_gguf(arrays) == ModelConfig.from_gguf(tiny)


def test_rope_scaling(tiny: GGUFFile) -> None:
    def scaling(**keys: Any) -> Scaling | None:
        return ModelConfig.from_gguf(
            changed(tiny, **{f"rope__{key}": value for key, value in keys.items()})
        ).rope_scaling

    assert scaling(scale_linear=2.0) == scaling(scaling__factor=2.0) == Scaling("linear", 2.0)
    assert scaling(scaling__factor=0.0) is None  # llama.cpp takes 0 for "not said"
    yarn = scaling(scaling__type="yarn", scaling__factor=4.0)
    assert yarn == Scaling("yarn", 4.0, 256, attention_factor=pytest.approx(1 + 0.1 * math.log(4)))
    given = {"original_context_length": 64, "yarn_beta_fast": 16.0, "yarn_beta_slow": 2.0, "yarn_attn_factor": 1.5}
    named = {f"scaling__{key}": value for key, value in given.items()}
    assert scaling(scaling__type="yarn", scaling__factor=4.0, **named) == Scaling("yarn", 4.0, 64, 16.0, 2.0, 1.5)
    assert scaling(scaling__type="yarn", scaling__factor=1.0) is None


def test_windows(tiny: GGUFFile, made: Callable[[str, str], Path]) -> None:
    everywhere = ModelConfig.from_gguf(changed(tiny, attention__sliding_window=16))
    assert [layer.sizes.window for layer in plan(everywhere).layers] == [16, 16]
    wide = ModelConfig.from_gguf(changed(tiny, attention__sliding_window=2**32 - 1))
    assert wide.layer(0).window == wide.context  # it is all there can be
    said = changed(tiny, attention__sliding_window=16, attention__sliding_window_pattern=np.array([False, True]))
    assert [sizes.window for sizes in ModelConfig.from_gguf(said).sizes] == [0, 16]
    nowhere = changed(tiny, attention__sliding_window=16, attention__sliding_window_pattern=1)
    assert [sizes.window for sizes in ModelConfig.from_gguf(nowhere).sizes] == [0, 0]
    other = open_gguf(made("tiny-qwen3", "Q4_0"))
    key = {"qwen3.attention.sliding_window": 16}
    with pytest.raises(ModelError, match="sliding-window attention is not supported in qwen3 models"):
        ModelConfig.from_gguf(replace(other, metadata={**other.metadata, **key}))


def test_patterns_of_gemma(made: Callable[[str, str], Path]) -> None:
    """Gemma 2 begins with a local layer and alternates; of six layers of Gemma 3 five are local."""
    for name, base in (("gemma2", 1e6), ("gemma3", 1e4)):
        file = open_gguf(made(f"tiny-{name}", "Q4_0"))
        layers = {
            f"blk.{i}.{n.partition('.')[2].partition('.')[2]}": t for n, t in file.tensors.items() for i in range(13)
        }
        tensors = {n: t for n, t in file.tensors.items() if not n.startswith("blk.")}
        tensors |= {n: replace(t, name=n) for n, t in layers.items() if not n.endswith(".")}
        metadata = {**file.metadata, f"{name}.block_count": 13, f"{name}.rope.scaling.factor": 8.0}
        config = ModelConfig.from_gguf(replace(file, tensors=tensors, metadata=metadata))
        of_layers = plan(config).layers
        everything = [i for i, layer in enumerate(of_layers) if layer.sizes.window == 0]
        assert everything == ([5, 11] if name == "gemma3" else [1, 3, 5, 7, 9, 11])
        assert {layer.rope.base for layer in of_layers if layer.sizes.window} == {base}
        scaled = {layer.rope.scaling is not None for layer in of_layers if layer.sizes.window}
        assert scaled == {name == "gemma2"} and of_layers[5].rope == Rope(32, 1e6, Scaling("linear", 8.0), ())


@pytest.mark.parametrize(
    ("name", "layers", "hidden", "divisor"), [("gemma2", 46, 4608, 144), ("gemma3", 62, 5376, 168)]
)
def test_the_27b_models_of_gemma_scale_scores_by_their_width(name: str, layers: int, hidden: int, divisor: int) -> None:
    architecture, keys = ARCHITECTURES[name], Metadata({})
    assert config_module._attention_scale(keys, architecture, layers, hidden, 32, 128) == divisor**-0.5
    assert config_module._attention_scale(keys, architecture, 26, hidden, 32, 128) == 0.0
    assert (
        config_module._attention_scale(Metadata({"attention.scale": 0.25}), architecture, 26, hidden, 32, 128) == 0.25
    )


@pytest.mark.parametrize("architecture", ["mamba", None, 3, "llama\n", ["llama"], "base"])
def test_other_architectures_are_named(tiny: GGUFFile, architecture: object) -> None:
    file = replace(tiny, metadata=dict(tiny.metadata) | {"general.architecture": architecture})
    with pytest.raises(
        ModelError, match=r"architecture .* is not supported|'general.architecture' is missing"
    ) as caught:
        ModelConfig.from_gguf(file)
    assert str(caught.value).isprintable()


def test_the_architecture_comes_first_and_all_types_with_it(tiny: GGUFFile) -> None:
    """Types that no format reads, of the whole file, in the line that names the architecture."""
    odd = replace(tiny, unread_types=frozenset({16, 19}))
    with pytest.raises(ModelError, match=r"^it has tensors of type IQ2_XXS and IQ1_S, which are not supported"):
        ModelConfig.from_gguf(odd)
    odder = replace(odd, metadata=dict(tiny.metadata) | {"general.architecture": "mamba"})
    with pytest.raises(ModelError, match=r"^architecture 'mamba' is not supported; .*; it has tensors of type IQ2_XXS"):
        ModelConfig.from_gguf(odder)


def test_types_are_found_in_the_file(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for i, kind in enumerate((17, 16, 0)):
        kind = gguf.GGMLQuantizationType(kind)
        writer.add_tensor(f"t{i}", np.zeros((2, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert open_gguf(tmp_path / "m.gguf").unread_types == {16, 17}
    with pytest.raises(ModelError, match="IQ2_XXS and IQ2_XS"):
        ModelConfig.from_gguf(open_gguf(tmp_path / "m.gguf"))


def test_every_missing_or_misshapen_tensor_is_named(tiny: GGUFFile) -> None:
    for name, info in tiny.tensors.items():
        rest = {other: i for other, i in tiny.tensors.items() if other != name}
        with pytest.raises(ModelError):
            ModelConfig.from_gguf(replace(tiny, tensors=rest))
        wrong = {**tiny.tensors, name: replace(info, shape=(*info.shape[:-1], info.shape[-1] + 32))}
        with pytest.raises(ModelError, match=name.replace(".", r"\.")):
            ModelConfig.from_gguf(replace(tiny, tensors=wrong))


def test_tensors_the_engine_would_ignore(tiny: GGUFFile) -> None:
    bias = TensorInfo("blk.0.attn_q.bias", (64,), "F32", 0, 256)
    with pytest.raises(ModelError, match=r"attn_q\.bias"):
        ModelConfig.from_gguf(replace(tiny, tensors={**tiny.tensors, bias.name: bias}))
    norm = replace(tiny.tensors["output_norm.weight"], format_name="Q8_0")
    with pytest.raises(ModelError, match="Q8_0"):
        ModelConfig.from_gguf(replace(tiny, tensors={**tiny.tensors, norm.name: norm}))


def test_layers_of_fused_tensors_are_counted_by_the_file_s(
    make_model: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = make_model.SHAPES["tiny-phi3"]
    monkeypatch.setitem(
        make_model.SHAPES, "deep", replace(shape, config=replace(shape.config, sizes=shape.config.sizes[:1] * 32))
    )
    make_model.make_model("deep", "Q4_0", tmp_path / "m.gguf")
    file = open_gguf(tmp_path / "m.gguf")
    assert ModelConfig.from_gguf(file).layers == 32 and len(file.tensors) == 32 * 6 + 2
    with pytest.raises(ModelError, match=r"33 layers announced|'blk\.32"):
        ModelConfig.from_gguf(replace(file, metadata={**file.metadata, "phi3.block_count": 33}))


def test_untied_head_and_rope_factors(tiny: GGUFFile) -> None:
    head = replace(tiny.tensors["token_embd.weight"], name="output.weight")
    factors = TensorInfo("rope_freqs.weight", (8,), "F32", 0, 32)
    config = ModelConfig.from_gguf(replace(tiny, tensors={**tiny.tensors, head.name: head, factors.name: factors}))
    assert not config.tied and config.rope_freqs
