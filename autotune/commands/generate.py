"""`autotune generate`: continues a prompt, printing text as it is generated, or answers a file of prompts."""

import sys
from pathlib import Path
from typing import Any

import click

from autotune import UserError
from autotune.commands import generate_batch, loading, options, output
from autotune.commands.conversation import chat_tokens
from autotune.commands.generate_batch import BatchSettings

BATCH = 32
SAMPLING = {"temperature": 0.0, "top_k": 0, "top_p": 1.0}


@click.command()
@options.model_argument
@click.option("-p", "--prompt", metavar="TEXT", help="Prompt; - reads it from stdin.")
@click.option(
    "--input",
    "source",
    metavar="FILE",
    help="Prompts, one JSON object a line, answered many at once; - reads them from stdin.",
)
@click.option(
    "--output",
    "target",
    metavar="FILE",
    help="Where the answers to --input go, one JSON object a line; what is there already is not answered again.  "
    "[default: -, stdout]",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1, max=1024),
    help=f"Most prompts of --input that are answered at once.  [default: {BATCH}; 1<=x<=1024]",
)
@click.option(
    "--chat/--raw",
    "as_chat",
    default=False,
    help="Put TEXT as a question through the model's chat template, or complete it as it is.  [default: raw]",
)
@click.option(
    "--plain", is_flag=True, help="Take the names of special tokens in TEXT, such as <|im_end|>, for plain text."
)
@options.template_option
@options.sampling_options(SAMPLING, tokens=128)
@options.speculate_option
@options.nvtx_option
@options.device_option
@options.gpu_memory_option
@options.cache_option
@options.threads_option
@options.db_option
@options.json_option
def generate(
    model: Path, prompt: str | None, source: str | None, target: str | None, batch: int | None, as_chat: bool,
    plain: bool, template_args: dict[str, Any], tokens: int,
    temperature: float | None, top_k: int | None, top_p: float | None, seed: int | None, context: int | None,
    untuned: bool, speculate: str, nvtx: bool, device: str, gpu_memory: int | None, cache: str,
    db_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write text after a prompt, streaming it.

    Only what the model writes goes to stdout; why it stopped, speed and the source of its kernels go to stderr.
    Special tokens in the prompt, such as <|im_end|>, are what they name unless --plain is given.

    With --input, each line has "prompt", a text, or "messages", a conversation for the model's chat template. Besides,
    where it is to have its own: "id", "system", "tokens" or "max_tokens", "temperature", "top_k", "top_p", "seed", and
    "metadata", anything that is copied to the answer. Answers come in the order in which they are finished; a prompt
    that cannot be answered has an "error". The same command, run again, answers what is left, however the first ended.

    \b
    Example:
      autotune generate model.gguf -p "The capital of France is" -n 32
      autotune generate model.gguf --chat -p "Name three rivers." --temperature 0.7
      autotune generate model.gguf --input prompts.jsonl --output answers.jsonl --batch 32
      autotune generate model.gguf --chat -p - --speculate ngram < what-to-edit-and-how.txt
    """
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    loading.check_sampling(given, seed)
    if prompt is not None and source is not None:
        raise UserError("-p is one prompt and --input a file of them; give one of the two")
    if source is None and (target is not None or batch is not None):
        raise UserError(
            f"{'--output' if target is not None else '--batch'} is about a file of prompts; give --input too"
        )
    if source is not None and speculate != "off":
        raise UserError("--speculate is about one text; leave it out, or give the prompts one by one with -p")
    if as_chat and plain:
        raise UserError("--plain is about a prompt without a chat template; leave out --chat or --plain")
    if source is not None:
        generate_batch.run(
            BatchSettings(
                model, source, target or "-", batch or BATCH, as_chat, plain, template_args, tokens,
                {name: value for name, value in given.items() if value is not None}, SAMPLING, seed, context, untuned,
                nvtx, device, gpu_memory, cache, db_path, as_json,
            )
        )  # fmt: skip
        return
    if template_args and not as_chat:
        raise UserError("--template-arg is for the model's chat template; give --chat too")
    if prompt is None:
        raise click.UsageError(
            "Missing option '-p' / '--prompt', or '--input' with a file of prompts.", click.get_current_context()
        )
    text = _standard_input() if prompt == "-" else prompt
    if not text:
        raise UserError("the prompt is empty; give some text with -p, or -p - and text on stdin")
    engine = loading.load_model(model, device, db_path, context, untuned, nvtx, text, gpu_memory, speculate, cache)
    sampler = loading.sampler_for(engine, given, SAMPLING, seed)
    if as_chat:
        loading.note_template(engine, template_args)
        start = chat_tokens(engine, [{"role": "user", "content": text}], template_args)
    else:
        start = _tokens(engine, text, plain)
    pieces: list[str] = []
    first_token_s = None
    interrupted: KeyboardInterrupt | None = None
    try:
        for piece in engine.generate(start, tokens, sampler, speculate=speculate):
            first_token_s = first_token_s or loading.since_process_start()
            pieces.append(piece)
            if not as_json:
                click.echo(piece, nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        interrupted = interrupt  # what was written is kept, and reported like any other text
    written = "".join(pieces)
    reason = "interrupted" if interrupted else loading.stop_reason(engine.timing, tokens, engine.context)
    if as_json:
        timing = engine.timing
        document = {
            "model": str(model),
            "device": device,
            "cache": cache,
            "prompt": text,
            "text": written,
            "interrupted": interrupted is not None,
            "stop_reason": reason,
            "sampling": {name: getattr(sampler, name) for name in SAMPLING},
            "tokens": {"prompt": timing.prompt_tokens, "text": timing.tokens},
            "speculation": loading.speculation_document(timing),
            "timings": loading.rates(timing) | {"load_s": engine.load_s, "first_token_s": first_token_s},
            "experts": None if engine.runner.experts is None else engine.runner.experts.document(),
            "kernels": loading.kernels_document(engine),
        }
        output.print_json(document)
    elif written and not written.endswith("\n"):
        click.echo()
    why = "interrupted" if interrupted else loading.why_it_stopped(engine, tokens)
    output.note(f"{loading.speed_line(engine.timing)} · {why or 'the model ended its text'}")
    output.note(loading.kernels_line(engine, model, untuned))
    engine.close()
    if interrupted is not None:
        raise interrupted


def _tokens(engine, text: str, plain: bool) -> list[int]:
    """The prompt as llama.cpp's own tool makes it: special tokens parsed, a BOS ahead if the file says so."""
    tokenizer = engine.tokenizer
    tokens = tokenizer.encode(text, parse_special=not plain)
    if tokenizer.add_bos and tokens[:2] == [tokenizer.bos] * 2:
        output.note("the prompt begins with a BOS token, and the model's own is put before it; leave it out")
    return tokens


def _standard_input() -> str:
    """All of stdin without the newline that ends it."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise UserError("the prompt on stdin is not UTF-8 text; convert it first, for example with iconv") from None
