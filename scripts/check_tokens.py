#!/usr/bin/env python
"""Compare tokens: ours and llama.cpp's, on 300 texts and the log, with and without special tokens parsed.

Also the bytes of each token and which tokens end a text. Exits with 1 if any text, token or end differs.

Example: scripts/check_tokens model.gguf ggml-vocab-phi-3.gguf
"""

import sys
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "peer"), str(ROOT / "tests" / "model")]

from llama_vocabulary import Vocabulary  # noqa: E402
from token_texts import texts  # noqa: E402

from model.errors import ModelError  # noqa: E402
from model.gguf_file import open_gguf  # noqa: E402
from model.tokenizer import Tokenizer  # noqa: E402

HEADINGS = ("texts", "docs/log.md", "tokens' bytes", "ends", "build", "log")


@click.command(help=__doc__.split("\n")[0])
@click.argument("models", metavar="MODEL.gguf...", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(models: tuple[Path, ...]) -> None:
    click.echo(f"{'':36} {' '.join(f'{heading:>14}' for heading in HEADINGS)}")
    differ = False
    for path in models:
        try:
            differ |= compare(path)
        except (ModelError, RuntimeError) as error:
            click.echo(f"{path.name:36} {error}")
            differ = True
    sys.exit(differ)


def compare(path: Path) -> bool:
    """Print one line, and of each text that differs where; return whether anything did."""
    metadata = open_gguf(path).metadata
    start = time.perf_counter()
    ours = Tokenizer.from_metadata(metadata)
    built = time.perf_counter() - start
    theirs = Vocabulary(path)
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    equal, lines = 0, []
    for text in texts():
        pairs = [
            (ours.encode(text, None if add else False, parse), theirs.encode(text, add, parse))
            for add in (False, True)
            for parse in (False, True)
        ]
        equal += all(one == other for one, other in pairs)
        lines += [_first_difference(text, *pair, theirs) for pair in pairs if pair[0] != pair[1]][:1]
    start = time.perf_counter()
    tokens = ours.encode(log, False)
    took = time.perf_counter() - start
    log_equal = tokens == theirs.encode(log, False, False)
    spelled = sum(ours.token_bytes(token) == theirs.token_bytes(token) for token in range(theirs.size))
    ends = ours.end_tokens == theirs.ends
    cells = (
        f"{equal}/{len(texts())}", _word(log_equal), f"{spelled}/{theirs.size}", _word(ends), f"{built:.2f} s",
        f"{len(tokens)} in {1000 * took:.0f} ms",
    )  # fmt: skip
    click.echo(f"{path.name:36} {' '.join(f'{cell:>14}' for cell in cells)}")
    if not ends:
        lines.append(f"ends: ours {sorted(ours.end_tokens)}, theirs {sorted(theirs.ends)}")
    for line in lines[:5]:
        click.echo(f"    {line}")
    theirs.close()
    return not (equal == len(texts()) and log_equal and spelled == theirs.size and ends)


def _first_difference(text: str, ours: list[int], theirs: list[int], vocabulary: Vocabulary) -> str:
    at = next((i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), 0)
    shown = [b" | ".join(vocabulary.token_bytes(t) for t in ids[at : at + 4]) for ids in (ours, theirs)]
    return f"{text[:40]!r}: ours {shown[0]!r}, theirs {shown[1]!r}"


def _word(equal: bool) -> str:
    return "equal" if equal else "DIFFER"


if __name__ == "__main__":
    main()
