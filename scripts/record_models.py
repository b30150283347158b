"""Make tests/fixtures/models: a small random model of every architecture, as people get theirs, with known logits.

Hugging Face transformers draws the weights; llama.cpp's own converter and quantizer write the GGUF file; the weights of
that file, dequantized by `gguf`, go back into transformers, whose float32 logits of TOKENS tokens (or as many as the
recipe says) are kept: so they are those of the very numbers that the file holds. Beside each NAME.gguf lies NAME.npz:
"tokens" int32 [TOKENS], "ids" uint16 and "logprobs" float32 [TOKENS, KEPT], the likeliest tokens after each and their
log-probabilities; of some also those of the last LATE tokens of a long text, called "late_...". models.json says what
made them, and how far llama.cpp's prebuilt wheel `xllamacpp` is from the same logits on the same file.

scripts/record_models prepares the Python that this needs.
"""

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
import tokenizers
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "peer")]

from llama_worker import Session  # noqa: E402

OUT = ROOT / "tests" / "fixtures" / "models"
TOKENS, KEPT, VOCAB = 256, 32, 512
LATE = 64
FILE_TYPES = {"Q8_0": 7, "Q4_K_M": 15, "MXFP4_MOE": 38}
"""Of llama.h's llama_ftype; other types are the converter's own."""


@dataclass(frozen=True)
class Recipe:
    """One model. kind: of transformers' classes, `KindConfig` and `KindForCausalLM`; sizes: what differs from SIZES;
    tokens: of the text whose logits are kept; late: where in a longer text LATE more begin; options: of the
    converter."""

    kind: str
    type: str
    sizes: dict[str, Any] = field(default_factory=dict)
    tokens: int = TOKENS
    late: int = 0
    options: tuple[str, ...] = ()


SIZES = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 1024, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
}  # fmt: skip
# Rows of 256 values, which K-quants need.
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 64}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 256}
# Of a head's 24 elements that turn; long factors hold beyond 128 positions.
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 128, "partial_rotary_factor": 0.75,
    "short_factor": [1 + 0.02 * i for i in range(24)], "long_factor": [1.0 + 0.35 * i for i in range(24)],
}  # fmt: skip
SLIDING, FULL = "sliding_attention", "full_attention"
# Global layers have larger heads that turn by a quarter; the last layers read the caches of those before them.
GEMMA4 = {
    "sliding_window": 64, "tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
    "final_logit_softcapping": 30.0, "num_hidden_layers": 7, "max_position_embeddings": 8192,
    "layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL, SLIDING, FULL],
}  # fmt: skip
BESIDE = {"enable_moe_block": True}
# Experts' rows are whole blocks of MXFP4; the ends of YaRN's ramp are pairs 4.05 and 8.7.
GPT_OSS = {
    "intermediate_size": 64, "num_hidden_layers": 3, "num_local_experts": 8, "num_experts_per_tok": 3,
    "sliding_window": 100,
    "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1.5e5, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "truncate": False, "original_max_position_embeddings": 4096,
    },
}  # fmt: skip
QWEN35 = {
    "num_hidden_layers": 4, "head_dim": 64, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 64, "linear_value_head_dim": 64,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25, "mrope_section": [3, 3, 2],
    },
}  # fmt: skip
EXPERTS = {
    "norm_topk_prob": True, "decoder_sparse_step": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}  # fmt: skip
NO_AHEAD = ("--no-nextn",)  # transformers has no layers that predict tokens beyond the next, and so no weights
GEMMA = {"query_pre_attn_scalar": 32, "sliding_window": 64, "tie_word_embeddings": True, "pad_token_id": 0}

RECIPES = {
    "llama-linear": Recipe("Llama", "f16", {"rope_parameters": LINEAR}),
    "llama-llama3": Recipe("Llama", "Q8_0", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-yarn": Recipe("Llama", "Q8_0", {"rope_parameters": YARN}),
    # Heads of another size than hidden / heads, as Mistral Nemo has them.
    "mistral": Recipe("Mistral", "Q4_K_M", {**WIDE, "head_dim": 128, "sliding_window": None, "num_hidden_layers": 1}),
    "qwen2": Recipe("Qwen2", "Q4_K_M", {**WIDE, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen3": Recipe("Qwen3", "bf16", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "gemma2": Recipe("Gemma2", "Q8_0", {**GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    # Five layers of six are local; the global one has another base and, as in models of 4B and more, scaled positions.
    "gemma3": Recipe(
        "Gemma3Text", "Q4_K_M",
        {**GEMMA, "num_hidden_layers": 7, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }},
    ),
    # As E2B and E4B: embeddings for each layer, layers without keys and values of their own, wider where those are.
    "gemma4-per-layer": Recipe(
        "Gemma4Text", "Q8_0",
        {**GEMMA4, "global_head_dim": 64, "num_kv_shared_layers": 2, "use_double_wide_mlp": True,
         "num_key_value_heads": 1, "hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": VOCAB},
        512, 4096,
    ),
    # As 31B: the keys of global layers are their values too, from fewer heads.
    "gemma4": Recipe(
        "Gemma4Text", "Q4_K_M",
        {**GEMMA4, **WIDE, "global_head_dim": 128, "attention_k_eq_v": True, "num_global_key_value_heads": 1,
         "hidden_size_per_layer_input": 0, "num_hidden_layers": 3, "layer_types": [SLIDING, SLIDING, FULL]},
        512, 4096,
    ),
    # As 26B-A4B: a mixture of experts beside the dense network of every layer; or all of that and inputs of layers.
    "gemma4-mixture": Recipe(
        "Gemma4Text", "Q4_K_M",
        {**GEMMA4, **WIDE, **BESIDE, "global_head_dim": 128, "attention_k_eq_v": True, "num_global_key_value_heads": 1,
         "hidden_size_per_layer_input": 0, "num_hidden_layers": 2, "layer_types": [SLIDING, FULL], "num_experts": 4,
         "top_k_experts": 2, "moe_intermediate_size": 256},
        512, 4096,
    ),
    "gemma4-mixture-small": Recipe(
        "Gemma4Text", "Q8_0",
        {**GEMMA4, **BESIDE, "global_head_dim": 64, "num_kv_shared_layers": 2, "use_double_wide_mlp": True,
         "num_key_value_heads": 1, "hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": VOCAB,
         "num_hidden_layers": 4, "layer_types": [SLIDING, FULL, SLIDING, FULL], "num_experts": 8, "top_k_experts": 3,
         "moe_intermediate_size": 32},
    ),
    "gpt-oss": Recipe("GptOss", "MXFP4_MOE", {**GPT_OSS, "max_position_embeddings": 8192}, 512, 4096),
    "gpt-oss-bf16": Recipe("GptOss", "bf16", {**GPT_OSS, "num_hidden_layers": 2, "sliding_window": 64}),
    # Three of four layers are gated delta nets, whose value heads share key heads; a quarter of a head turns.
    "qwen35": Recipe("Qwen3_5Text", "Q4_K_M", {**WIDE, **QWEN35, "max_position_embeddings": 8192}, 512, 4096, NO_AHEAD),
    "qwen35-f16": Recipe("Qwen3_5Text", "f16", {**QWEN35, "num_hidden_layers": 3, "layer_types": [
        "full_attention", "linear_attention", "linear_attention",
    ]}, 512, 0, NO_AHEAD),
    # Experts, and one that every token uses, behind a mixer of either kind.
    "qwen35moe": Recipe("Qwen3_5MoeText", "Q4_K_M", {
        **WIDE, **QWEN35, "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"],
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
        "shared_expert_intermediate_size": 256, "max_position_embeddings": 8192,
    }, 512, 4096, NO_AHEAD),
    "qwen35moe-bf16": Recipe("Qwen3_5MoeText", "bf16", {
        **QWEN35, "num_hidden_layers": 3, "layer_types": ["full_attention", "linear_attention", "linear_attention"],
        "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 96,
    }, 512, 0, NO_AHEAD),
    "qwen3moe": Recipe("Qwen3Moe", "Q4_K_M", {
        **WIDE, **EXPERTS, "num_hidden_layers": 1, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 256, "max_position_embeddings": 8192,
    }, 512, 4096),
    "qwen3moe-bf16": Recipe("Qwen3Moe", "bf16", {
        **EXPERTS, "num_hidden_layers": 3, "num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 32,
    }),
    "phi3": Recipe(
        "Phi3", "Q4_K_M",
        {**WIDE, "rope_parameters": LONGROPE, "original_max_position_embeddings": 128, "sliding_window": None},
    ),
    "phi3-window": Recipe("Phi3", "Q8_0", {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 100}),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, metavar="DIR", help="llama.cpp's source folder")
    parser.add_argument("--library", type=Path, required=True, metavar="FILE", help="libllama.so, built from it")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(RECIPES)}; all where none is named"
    )
    given = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    record = OUT / "models.json"
    known = json.loads(record.read_text())["models"] if record.exists() else {}
    for name in given.names or RECIPES:
        known[name] = make(name, RECIPES[name], given)
        print(f"{name:<14} {known[name]}", flush=True)
    packages = ("transformers", "torch", "sentencepiece", "gguf", "xllamacpp")
    versions = {package: importlib.metadata.version(package) for package in packages}
    versions["llama-cpp-python"] = re.search(r"llama_cpp_python-([\d.]+)", str(given.llama_cpp.resolve()))[1]
    document = {"versions": versions, "tokens": TOKENS, "kept": KEPT, "models": dict(sorted(known.items()))}
    record.write_text(json.dumps(document, indent=1) + "\n")


def make(name: str, recipe: Recipe, given: argparse.Namespace) -> dict[str, Any]:
    """Write the model's two files; what models.json says of it."""
    with tempfile.TemporaryDirectory() as temporary:
        # The converter calls the model after its folder, and llama.cpp wants tokens of Phi-3 in one that is called so.
        folder = Path(temporary) / "random"
        network = random_network(recipe, seed=sum(map(ord, name)))
        network.save_pretrained(folder)
        (merge_tokenizer if recipe.kind == "Gemma4Text" else tokenizer)(folder)
        path = OUT / f"{name}.gguf"
        converted = Path(temporary) / "converted.gguf"
        plain = recipe.type not in FILE_TYPES
        convert(given.llama_cpp, folder, converted, [recipe.type if plain else "f32", *recipe.options])
        if plain:
            path.write_bytes(converted.read_bytes())
        else:
            quantize(given.library, converted, path, FILE_TYPES[recipe.type])
    take_back(network, gguf.GGUFReader(path))
    kept, far = likeliest(network, path, recipe.tokens, recipe.tokens)
    shown = {"logits_std": round(kept.pop("std"), 2)}
    if recipe.late:
        late, late_far = likeliest(network, path, recipe.late + LATE, LATE)
        kept |= {f"late_{what}": late[what] for what in ("tokens", "ids", "logprobs")}
        shown["llama_cpp_late"] = late_far
    np.savez_compressed(OUT / f"{name}.npz", **kept)
    types = sorted({tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors})
    shown |= {"bytes": path.stat().st_size, "types": types, "llama_cpp": far}
    return {"kind": recipe.kind, "type": recipe.type, **shown}


def likeliest(network: torch.nn.Module, path: Path, count: int, last: int) -> tuple[dict[str, Any], dict[str, float]]:
    """The arrays kept of the `last` of `count` tokens, and their logits' "std"; how far llama.cpp's are from them."""
    tokens = np.random.default_rng(7).integers(3, VOCAB, count).astype(np.int32)
    with torch.no_grad():
        logits = network(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0, -last:].float()
    logprobs, ids = (part.numpy() for part in logits.log_softmax(-1).topk(KEPT))
    kl, top1 = compared(ids, logprobs, llama_cpp_logits(path, tokens)[-last:])
    kept = {"tokens": tokens, "ids": ids.astype(np.uint16), "logprobs": logprobs, "std": float(logits.std())}
    return kept, {"mean_kl": kl, "top1": top1}


def random_network(recipe: Recipe, seed: int) -> torch.nn.Module:
    """A network whose weights all matter: norms unlike 1, biases unlike 0, logits with a deviation of about 2.5."""
    sizes = {**SIZES, **recipe.sizes}
    if recipe.kind == "Phi3":
        del sizes["head_dim"]
    config = getattr(transformers, f"{recipe.kind}Config")(**sizes)
    base = recipe.kind.removesuffix("Text")
    config.architectures = [f"{base}ForCausalLM"]
    network = getattr(transformers, f"{base}ForCausalLM")(config).float().eval()
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    less_one = recipe.kind in ("Gemma2", "Gemma3Text", "Qwen3_5Text", "Qwen3_5MoeText")
    gemma4 = recipe.kind.startswith("Gemma4")
    with torch.no_grad():
        for name, weight in weights(network):
            if re.search("norm|layer_scalar|router.*scale", name):  # Gemma's, and Qwen3.5's but for one, are less 1
                weight.copy_(0.3 * normal(weight.shape) + (0.0 if less_one and "linear_attn" not in name else 1.0))
                if gemma4 and re.search("q_norm|k_norm", name):
                    weight *= 0.4  # nothing else divides the scores
                if gemma4 and name == "model.norm.weight":
                    weight *= 5.0
            elif gemma4 and "embed_tokens" in name:  # small, or a token would predict itself and layers mean nothing
                weight.copy_(0.5 * normal(weight.shape) / sizes["hidden_size"] ** 0.5)
            elif name.endswith("dt_bias"):  # steps of 0.001 to 0.1, as Mamba begins with
                weight.copy_(torch.expm1(torch.exp(-6.9 + 4.6 * torch.rand(weight.shape, generator=generator))).log())
            elif name.endswith("A_log"):
                weight.copy_(2.8 * torch.rand(weight.shape, generator=generator))
            elif "conv1d" in name:
                weight.copy_(normal(weight.shape) / weight.shape[-1] ** 0.5)
            elif name.endswith("sinks"):  # beside scores of a deviation of 2 and more
                weight.copy_(3.0 + 1.5 * normal(weight.shape))
            elif name.endswith("router.proj.weight"):  # what it reads has a length of 1
                weight.copy_(1.5 * normal(weight.shape))
            elif name.endswith("gate_up_proj") and not gemma4:  # wide enough for clamps at 7 to be seen
                weight.copy_(3.0 * normal(weight.shape) / weight.shape[1] ** 0.5)
            elif name.endswith("experts.down_proj") and not gemma4:
                weight.copy_(normal(weight.shape) / weight.shape[1] ** 0.5 / 6)
            elif name.endswith("bias"):
                weight.copy_(0.5 * normal(weight.shape))
            elif "embed_tokens" in name:
                weight.copy_(normal(weight.shape) * (0.35 if sizes["tie_word_embeddings"] else 1.0))
            elif "lm_head" in name:
                weight.copy_(2.5 * normal(weight.shape) / weight.shape[1] ** 0.5)
            else:  # attention's scores with a deviation of about 2: neither flat nor one-hot
                sharp = 1.5 if re.search(r"q_proj|k_proj|mlp\.gate\.", name) else 1.0
                weight.copy_(sharp * normal(weight.shape) / weight.shape[-1] ** 0.5)
            weight.copy_(weight.bfloat16().float())  # values that every float type of the converter keeps
    return network


def weights(network: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What a checkpoint has: the parameters, and what Gemma 4 multiplies a layer's output with."""
    yield from network.named_parameters()
    yield from ((f"{name}.weight", buffer) for name, buffer in network.named_buffers() if name.endswith("layer_scalar"))


def tokenizer(folder: Path) -> None:
    """A SentencePiece model of VOCAB pieces, bytes among them: the kind that the converter takes for any of these."""
    sentencepiece.SentencePieceTrainer.train(
        input=str(ROOT / "LICENSE"), model_prefix=str(folder / "tokenizer"), vocab_size=VOCAB, model_type="bpe",
        byte_fallback=True, character_coverage=1.0, num_threads=1, minloglevel=2,
    )  # fmt: skip


def merge_tokenizer(folder: Path) -> None:
    """Merges by rank over characters, spaces as U+2581, bytes where a character is no token: Gemma 4's kind."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>"]
    first = special + [f"<0x{byte:02X}>" for byte in range(256)]
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    spaces = tokenizers.normalizers.Replace(" ", "\u2581")
    trained.normalizer = spaces
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=VOCAB - len(first), show_progress=False)
    trained.train([str(ROOT / "LICENSE")], trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = {text: number for number, text in enumerate(first)}
    vocabulary |= {text: number + len(first) for text, number in model["vocab"].items()}
    merges = [tuple(merge) for merge in model["merges"]]
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = spaces
    decoders = tokenizers.decoders
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    named = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, additional_special_tokens=["<|turn>", "<turn|>"], **named
    ).save_pretrained(folder)


def convert(llama_cpp: Path, folder: Path, target: Path, options: list[str]) -> None:
    """By llama.cpp's converter. Of some models it takes only vocabularies that it knows by a digest; here any will
    do."""
    code = (
        "import runpy, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from conversion.gpt_oss import GptOssModel\n"
        "from conversion.qwen import Qwen3_5MoeTextModel, Qwen3_5TextModel, Qwen3MoeModel\n"
        "for model in (GptOssModel, Qwen3_5MoeTextModel, Qwen3_5TextModel, Qwen3MoeModel):\n"
        "    model.set_vocab = lambda self: self._set_vocab_sentencepiece()\n"
        "sys.argv = sys.argv[2:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    script = llama_cpp / "convert_hf_to_gguf.py"
    arguments = [str(llama_cpp), str(script), str(folder), "--outfile", str(target), "--outtype", *options]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def quantize(library: Path, source: Path, target: Path, file_type: int) -> None:
    """By llama.cpp's quantizer, in a process of its own: xllamacpp brings functions of the same names."""
    code = (
        "import ctypes, sys\n"
        "lib = ctypes.CDLL(sys.argv[1])\n"
        "class Params(ctypes.Structure): _fields_ = [('threads', ctypes.c_int32), ('ftype', ctypes.c_int),"
        " ('rest', ctypes.c_byte * 120)]\n"
        "lib.llama_model_quantize_default_params.restype = Params\n"
        "lib.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params)]\n"
        "lib.llama_backend_init()\n"
        "p = lib.llama_model_quantize_default_params(); p.threads = 1; p.ftype = int(sys.argv[4])\n"
        "sys.exit(lib.llama_model_quantize(sys.argv[2].encode(), sys.argv[3].encode(), ctypes.byref(p)))\n"
    )
    arguments = [str(library), str(source), str(target), str(file_type)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def take_back(network: torch.nn.Module, reader: gguf.GGUFReader) -> None:
    """Put the file's numbers into the network, undoing what the converter did to names, norms and rows."""
    architecture = str(reader.fields["general.architecture"].contents())
    known = {arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture}
    names = gguf.get_tensor_name_map(known.pop(), network.config.num_hidden_layers)
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def read(name: str) -> torch.Tensor:
        tensor = tensors[scale_of(name) or names.get_name(name, (".weight", ".bias"))]
        return torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))

    with torch.no_grad():
        for name, weight in weights(network):
            # The converter renames it before it looks it up.
            renamed = name.replace(".dt_bias", ".dt_proj.bias")
            if architecture == "gemma4":
                values = read(name + ".weight" * (".experts." in name))
            else:
                values = read_mixture(name, read) if architecture == "gpt-oss" else read_experts(renamed, read)
            if architecture == "llama" and re.search(r"[qk]_proj\.weight", name):
                heads = len(values) // network.config.head_dim
                values = values.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
            less_one = architecture in ("gemma2", "gemma3", "qwen35", "qwen35moe") and "linear_attn" not in name
            if less_one and name.endswith("norm.weight"):
                values = values - 1
            if name.endswith("A_log"):
                values = (-values).log()
            if "linear_attn" in name:
                values = by_key_head(name, values, network.config)
            weight.copy_(values.reshape(weight.shape))


def scale_of(name: str) -> str | None:
    """What files call the scales of Gemma 4's router, and of its experts; None for anything else."""
    found = re.fullmatch(r"model\.layers\.(\d+)\.router\.(scale|per_expert_scale)", name)
    return found and f"blk.{found[1]}.ffn_{'gate_inp' if found[2] == 'scale' else 'down_exps'}.scale"


def read_experts(name: str, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """A tensor; of experts gate and up are one in transformers, gate's rows first."""
    if name.endswith("experts.gate_up_proj"):
        return torch.cat([read(name.replace("gate_up", which) + ".weight") for which in ("gate", "up")], 1)
    return read(name + (".weight" if name.endswith("experts.down_proj") else ""))


def read_mixture(name: str, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """A tensor of gpt-oss, whose gate and up take turns, and whose experts' matrices are transposed."""
    if name.endswith("sinks"):
        return read(name + ".weight")
    if ".experts." not in name:
        return read(name)
    kind = "bias" if name.endswith("_bias") else "weight"
    one = name.removesuffix("_bias")
    if "gate_up" in name:
        parts = [read(f"{one.replace('gate_up', which)}.{kind}") for which in ("gate", "up")]
        values = torch.stack(parts, 2).flatten(1, 2)  # along rows, of biases along elements
    else:
        values = read(f"{one}.{kind}")
    return values if kind == "bias" else values.transpose(1, 2)


def by_key_head(name: str, values: torch.Tensor, config: Any) -> torch.Tensor:
    """A tensor of a gated delta net with its value heads as transformers has them, those of a key head together; the
    converter puts the first of every key head first, then the second."""
    keys, heads, size = config.linear_num_key_heads, config.linear_num_value_heads, config.linear_value_head_dim

    def ordered(rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, (heads // keys, keys, -1)).transpose(0, 1).flatten(0, 2)

    if name.endswith("linear_attn.norm.weight"):
        return values
    if "out_proj" in name:
        return ordered(values.T.contiguous()).T
    rest = len(values) - heads * size if "in_proj_qkv" in name or "conv1d" in name else 0
    return torch.cat([values[:rest], ordered(values[rest:])])


def llama_cpp_logits(path: Path, tokens: np.ndarray) -> np.ndarray:
    """float32 [tokens, vocab] of xllamacpp, token by token."""
    session = Session(str(path), 1, len(tokens), flash_attn=None, repack=True)
    rows = [session.feed([token], position)[0].copy() for position, token in enumerate(tokens.tolist())]
    session.close()
    return np.stack(rows)


def compared(ids: np.ndarray, logprobs: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Mean KL in nats of `logits` to the kept log-probabilities, all other tokens as one; the share of equal best
    tokens."""
    found = logits.astype(np.float64)
    found -= np.log(np.exp(found - found.max(1, keepdims=True)).sum(1, keepdims=True)) + found.max(1, keepdims=True)
    p, q = logprobs.astype(np.float64), np.take_along_axis(found, ids.astype(np.int64), 1)
    rest_p, rest_q = (np.maximum(1 - np.exp(part).sum(1), 1e-12) for part in (p, q))
    kl = (np.exp(p) * (p - q)).sum(1) + rest_p * np.log(rest_p / rest_q)
    return float(kl.mean()), float((found.argmax(1) == ids[:, 0]).mean())


if __name__ == "__main__":
    main()
