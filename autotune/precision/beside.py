"""Several files of one model side by side: bytes, bits a weight, tokens per second and KL, to choose a quant by.

All are measured against one float32 pass, over the weights of the file with the most bits a weight: it is the closest
there is to the model before quantizing.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from autotune.peer import llama_process
from autotune.precision.divergence import divergence, reference_rows
from autotune.precision.model_precision import Progress, context_for
from autotune.precision.precision_result import Beside, Divergence, FileRow
from kernel_templates.cpu import machine
from model.config import ModelConfig
from model.engine import Model
from model.errors import ModelError
from model.gguf_file import GGUFFile, open_gguf
from model.reference import reference_hidden
from model.sampling import Sampler
from model.tokenizer import Tokenizer

WARM_UP, STEPS, PROMPT = 4, 32, 16  # tokens of the decode that is timed, as llama.cpp's


def compare(
    paths: Sequence[Path], tokens: list[int], load: Callable[[Path], Model], progress: Progress = lambda step: None
) -> Beside:
    """load: opens a file with `context_for` these tokens. Raises ModelError, also where a file is of another model."""
    files = {path: open_gguf(path) for path in paths}
    best = max(paths, key=lambda path: bits_per_weight(files[path]))
    check_one_model(files, tokens)
    progress(f"the float32 pass over {best.name}")
    hidden = reference_hidden(files[best], tokens, context_for(files[best], tokens))
    rows: list[FileRow] = []
    for path in paths:
        facts = path.name, sum(shard.data.size for shard in files[path].shards), bits_per_weight(files[path])
        progress(f"{path.name}: tokens per second and logits")
        with closing(load(path)) as engine:
            rate = _decode_rate(engine, tokens)
            far = divergence(reference_rows(files[best], hidden), engine.logit_rows(tokens, stepwise=True))
        rows.append(_row("autotune", facts, rate, far))
        if llama_process.installed():
            progress(f"{path.name}: llama.cpp")
            rows.append(_peer(path, facts, tokens, lambda: reference_rows(files[best], hidden), engine.config.vocab))
    return Beside(best.name, tuple(rows))


def bits_per_weight(file: GGUFFile) -> float:
    """Of all tensors together."""
    tensors = file.tensors.values()
    return 8 * sum(tensor.bytes for tensor in tensors) / sum(math.prod(tensor.shape) for tensor in tensors)


def check_one_model(files: Mapping[Path, GGUFFile], tokens: list[int]) -> None:
    """Refuses files of other sizes, and those that read a text in another way. Raises ModelError."""
    (first, one), *others = files.items()
    text = Tokenizer.from_metadata(one.metadata).decode(tokens)
    for path, file in others:
        unlike = [name for name, size in _sizes(one).items() if _sizes(file)[name] != size]
        if not unlike and Tokenizer.from_metadata(file.metadata).decode(tokens) != text:
            unlike = ["tokens"]
        if unlike:
            differs = "another " + " and ".join(unlike)
            raise ModelError(
                f"{path.name} is not of the model of {first.name}: it has {differs}; give files of one model"
            )


def _sizes(file: GGUFFile) -> dict[str, object]:
    config = ModelConfig.from_gguf(file)
    return {
        "architecture": config.architecture.name, "number of layers": config.layers, "width": config.hidden,
        "vocabulary": config.vocab,
    }  # fmt: skip


def _row(
    engine: str, facts: tuple[str, int, float], rate: float | None, far: Divergence | None, why: str = ""
) -> FileRow:
    name, size, bits = facts
    return FileRow(name, engine, size, bits, rate, far, why)


def _decode_rate(engine: Model, tokens: list[int]) -> float | None:
    """Tokens per second of `STEPS` greedy steps after the beginning of the text; None if there is no room."""
    steps = min(STEPS, engine.context - PROMPT - 1)
    if steps < 1:
        return None
    for count in (WARM_UP, steps + 1):
        engine.reset()
        for _ in engine.generate_tokens(tokens[:PROMPT], count, Sampler(), ignore_end=True):
            pass
    seconds = engine.timing.decode_s
    engine.reset()
    return steps / seconds if seconds else None


def _peer(
    path: Path, facts: tuple[str, int, float], tokens: list[int], wanted: Callable[[], Iterator], vocab: int
) -> FileRow:
    try:
        with llama_process.opened(path, tokens, vocab, machine.thread_count()) as peer:
            far = divergence(wanted(), (next(peer.rows) for _ in tokens))
            return _row("llama.cpp", facts, peer.decode_tok_s, far)
    except (llama_process.PeerError, RuntimeError) as error:
        return _row("llama.cpp", facts, None, None, str(error))
