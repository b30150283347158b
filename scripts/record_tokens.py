#!/usr/bin/env python
"""Make three small vocabularies and record what llama.cpp makes of 300 texts with them: tests/fixtures/tokenizers.

Needs the packages gguf and xllamacpp: ./scripts/setup_env test peer. The vocabularies are trained on the same texts, by
the `tokenizers` library, without regard to words, so that wherever a text is cut shows in its tokens.

Example: scripts/record_tokens.py
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import click
import gguf
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "peer"), str(ROOT / "tests" / "model")]

from llama_vocabulary import Vocabulary  # noqa: E402
from token_texts import digest, texts  # noqa: E402

from model.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED  # noqa: E402
from model.tokenizers.pre_tokenizers import PRE_TOKENIZERS  # noqa: E402

FOLDER = ROOT / "tests" / "fixtures" / "tokenizers"
SPECIAL = (
    "<unk>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|endoftext|>",
)
WORDS = ("Ġriver", "mill", "Ġold", "nad", "à¤¨à¤¦à¥Ģ")
"""Tokens of the byte-level vocabulary that no merges make."""
USER = ("\n\n", "  ", "    ", "<td>", "naïve café", "é", "--", "---")
LEARNED, ALPHABET = 1200, 300
"""Tokens, of which so many may be single characters; other characters are spelled by their bytes."""
CHANGES: dict[str, dict[str, object]] = {
    "sentencepiece": {},
    "sentencepiece without a space ahead": {"tokenizer.ggml.add_space_prefix": False},
    "sentencepiece of Phi-3": {"general.name": "Phi-3 mini"},
    "sentencepiece without scores": {"tokenizer.ggml.scores": None},
}
"""Variant -> the metadata that differ."""


def learned(split: pre_tokenizers.PreTokenizer, alphabet: list[str]) -> tuple[list[str], list[str]]:
    """The tokens and the merges that training makes, in their order; no special token is among them, nor NUL, at which
    llama.cpp ends a token."""
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = split
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNED, initial_alphabet=alphabet, limit_alphabet=ALPHABET, show_progress=False
    )
    engine.train_from_iterator([text for text in texts() if "<" not in text and "\0" not in text], trainer)
    state = json.loads(engine.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    return tokens, [" ".join(pair) for pair in state["merges"]]


def byte_level() -> dict[str, object]:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens, merges = learned(split, pre_tokenizers.ByteLevel.alphabet())
    user = [text for text in USER if text not in tokens]
    tokens += [word for word in WORDS if word not in tokens]
    types = [NORMAL] * len(tokens) + [CONTROL] * len(SPECIAL) + [USER_DEFINED] * len(user)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*tokens, *SPECIAL, *user],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens) + 1,
        "tokenizer.ggml.eos_token_id": len(tokens) + 2,
    }


def sentencepiece() -> dict[str, object]:
    """Scores in steps, so that many are equal; some words go on past a space."""
    spaces = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(split=False), pre_tokenizers.Split(Regex("\n"), "isolated")]
    )
    tokens, merges = learned(spaces, [])
    made = [merge.replace(" ", "") for merge in merges]
    single = [token for token in tokens if token not in set(made)]
    scores = [-float(rank // 4) for rank in range(len(made))] + [-1000.0] * len(single)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    user = [text for text in USER if text not in tokens]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*SPECIAL, *bytes_, *user, *made, *single],
        "tokenizer.ggml.token_type": [UNKNOWN]
        + [CONTROL] * (len(SPECIAL) - 1)
        + [BYTE] * 256
        + [USER_DEFINED] * len(user)
        + [NORMAL] * len(scores),
        "tokenizer.ggml.scores": [0.0] * (len(SPECIAL) + 256 + len(user)) + scores,
    }


def characters() -> dict[str, object]:
    """Gemma 4's kind: merges go over a whole line, spaces among them, and make tokens of several line breaks."""
    lines = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never", split=False), pre_tokenizers.Split(Regex("\n+"), "isolated")]
    )
    tokens, merges = learned(lines, [])
    special = (*SPECIAL, "<bos>", "<eos>", "<|turn>", "<turn|>", "<|tool_response>")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    user = [text for text in USER if text not in tokens]
    types = [CONTROL] * len(special) + [BYTE] * 256 + [USER_DEFINED] * len(user) + [NORMAL] * len(tokens)
    return {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": [*special, *bytes_, *user, *tokens],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": special.index("<bos>"),
        "tokenizer.ggml.eos_token_id": special.index("<eos>"),
        "tokenizer.ggml.unknown_token_id": special.index("<unk>"),
        "tokenizer.ggml.add_bos_token": False,  # llama.cpp puts one there all the same
    }


def write(path: Path, values: dict[str, object]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in values.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif value is not None:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def recorded(values: dict[str, object]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        write(path, values)
        vocabulary = Vocabulary(path)
        return digest(vocabulary.encode)


@click.command(help=__doc__.split("\n")[0])
def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    bpe, spm, by_characters = byte_level(), sentencepiece(), characters()
    write(FOLDER / "bpe.gguf", bpe)
    write(FOLDER / "sentencepiece.gguf", spm)
    write(FOLDER / "characters.gguf", by_characters)
    golden = {
        "made with": f"xllamacpp {version('xllamacpp')}",
        "changes": CHANGES,
        "digests": {name: recorded(spm | changes) for name, changes in CHANGES.items()}
        | {name: recorded(bpe | {"tokenizer.ggml.pre": name}) for name in PRE_TOKENIZERS}
        | {"characters": recorded(by_characters)},
    }
    (FOLDER / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    sizes = ", ".join(f"{path.name} {path.stat().st_size}" for path in sorted(FOLDER.iterdir()))
    click.echo(f"{sizes} bytes; {len(set(golden['digests'].values()))} of {len(golden['digests'])} digests differ")


if __name__ == "__main__":
    main()
