#!/usr/bin/env bash
# llama.cpp (xllamacpp 2026.10.11549) rounds the ends of gpt-oss's YaRN ramp, which the published model does not.
#
# YaRN divides the frequencies of slow pairs and keeps those of fast ones, with a ramp between. gpt-oss's configuration
# says `truncate: false`, so its ramp goes from pair 8.09 to pair 17.40; llama.cpp takes 8 to 18, and a GGUF file has no
# key for it. Shown on random weights in float32 with the published rope: llama.cpp's logits are transformers' 5.24.0 of
# `truncate: true` (a median KL of 5e-6 nats), and 2e-3 nats from those of the published configuration after 200 tokens,
# 6e-2 after 3,000. How far trained weights are apart was not measured. A good engineer expects a float32 file to differ
# by rounding only. What to do: compare a quantized gpt-oss in llama.cpp with llama.cpp's own float32 logits, and not
# with transformers'; take the ends as they are in an engine of one's own, and then do not expect llama.cpp's logits.
#
# Needs Linux on x86-64, Python 3.11 or newer with pip, no GPU. Exits 1 when the behaviour is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder/site" torch==2.13.0 numpy==2.4.6 \
    transformers==5.24.0 gguf==0.19.0 xllamacpp==2026.10.11549
cat >"$folder/ramp.py" <<'PYTHON'
import gguf
import torch
import xllamacpp
from transformers import GptOssConfig, GptOssForCausalLM

VOCAB, WIDTH, LAYERS, WRITTEN = 256, 64, 2, 200
config = GptOssConfig(
    vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
    num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=131072,
)
rope = config.rope_parameters
print(f"published: truncate {rope['truncate']}")
published = GptOssForCausalLM(config).float().eval()
torch.manual_seed(0)
with torch.no_grad():
    for weight in published.parameters():
        weight.copy_(torch.randn_like(weight) * (2 / weight.shape[-1] ** 0.5 if weight.ndim > 1 else 1))
config.rope_parameters = {**rope, "truncate": True}
rounded = GptOssForCausalLM(config).float().eval()
rounded.load_state_dict(published.state_dict())

file = gguf.GGUFWriter("random.gguf", "gpt-oss")
for key, value in {
    "context_length": 131072, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": WIDTH,
    "expert_feed_forward_length": WIDTH, "expert_count": 4, "expert_used_count": 2, "attention.head_count": 4,
    "attention.head_count_kv": 2, "attention.key_length": config.head_dim, "attention.value_length": config.head_dim,
    "attention.sliding_window": config.sliding_window, "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    "rope.freq_base": rope["rope_theta"], "rope.scaling.factor": rope["factor"],
    "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
    "rope.scaling.yarn_beta_fast": rope["beta_fast"], "rope.scaling.yarn_beta_slow": rope["beta_slow"],
}.items():
    (file.add_uint32 if isinstance(value, int) else file.add_float32)(f"gpt-oss.{key}", value)
file.add_rope_scaling_type(gguf.RopeScalingType.YARN)
file.add_tokenizer_model("llama")
file.add_token_list(["<unk>", "<s>", "</s>", *(f"t{number}" for number in range(3, VOCAB))])
file.add_token_scores([0.0] * VOCAB)
file.add_token_types([2, 3, 3] + [1] * (VOCAB - 3))
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT_OSS, LAYERS)
for name, value in published.state_dict().items():
    module, _, own = name.rpartition(".")
    if own in ("weight", "bias"):
        parts = {module: value}
    elif own == "sinks":
        parts, own = {name: value}, "weight"
    else:  # experts: matrices are transposed, gate and up take turns
        which, own = own.removesuffix("_bias"), "bias" if own.endswith("_bias") else "weight"
        value = value if own == "bias" else value.transpose(1, 2)
        split = {"gate_proj": value[:, ::2], "up_proj": value[:, 1::2]} if which == "gate_up_proj" else {which: value}
        parts = {f"{module}.{part}": some for part, some in split.items()}
    for part, some in parts.items():
        file.add_tensor(f"{names.get_name(part)}.{own}", some.contiguous().numpy())
file.write_header_to_file()
file.write_kv_data_to_file()
file.write_tensors_to_file()
file.close()

params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup = "random.gguf", 4096, 1, False
server = xllamacpp.Server(params)
for count in (200, 3000):
    prompt = torch.randint(3, VOCAB, (count,)).tolist()
    asked = {"prompt": prompt, "n_predict": WRITTEN, "n_probs": VOCAB, "temperature": 1, "seed": 0, "ignore_eos": True}
    steps = server.handle_completions(asked)["choices"][0]["logprobs"]["content"]
    theirs = torch.full((WRITTEN, VOCAB), torch.nan)
    for row, step in zip(theirs, steps, strict=True):
        for one in step["top_logprobs"]:
            row[one["id"]] = one["logprob"]
    tokens = torch.tensor([prompt + [step["id"] for step in steps]])
    for name, network in (("as published", published), ("ends rounded", rounded)):
        with torch.no_grad():
            right = network(tokens).logits[0, count - 1 : -1].log_softmax(-1)
        kl = (right.exp() * (right - theirs)).sum(-1).median().item()
        about = "above 5e-4" if kl > 5e-4 else "below 5e-5" if kl < 5e-5 else f"{kl:.1e}"
        print(f"after {count} tokens, {name}: llama.cpp is {about} nats away")
PYTHON
seen=$(cd "$folder" && PYTHONPATH="$folder/site" python3 ramp.py 2>log) || { tail -5 "$folder/log" >&2; exit 1; }
expected="published: truncate False
after 200 tokens, as published: llama.cpp is above 5e-4 nats away
after 200 tokens, ends rounded: llama.cpp is below 5e-5 nats away
after 3000 tokens, as published: llama.cpp is above 5e-4 nats away
after 3000 tokens, ends rounded: llama.cpp is below 5e-5 nats away"
echo "$seen"
[[ $seen == "$expected" ]] || { echo "this is not what was seen with xllamacpp 2026.10.11549" >&2; exit 1; }
