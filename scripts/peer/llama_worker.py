"""llama.cpp's side of a comparison, through its C API: no Python between it and its best speed but what our side has
too, one call and one argmax a token. Runs under the peer's Python, which has numpy, and xllamacpp or llama_cpp."""

import time
from typing import Any

import numpy as np
from protocol import serve

try:
    import llama_cpp.llama_cpp as api

    PACKAGE = "llama-cpp-python"
except ImportError:
    import xllamacpp_api as api

    PACKAGE = api.NAME


class Session:
    """A model and one context. Nothing is shared between two settings but the page cache."""

    def __init__(self, path: str, threads: int, context: int, flash_attn: bool | None, repack: bool) -> None:
        settings = api.llama_model_default_params()
        settings.use_extra_bufts = repack  # weights rearranged at load for the vector instructions at hand
        self.model = api.llama_model_load_from_file(path.encode(), settings)
        if not self.model:
            raise RuntimeError("the model could not be loaded")
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = threads
        if flash_attn is not None:
            enabled, disabled = api.LLAMA_FLASH_ATTN_TYPE_ENABLED, api.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.flash_attn_type = enabled if flash_attn else disabled
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("the context could not be made")
        self.vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.batch = api.llama_batch_init(context, 0, 1)

    def close(self) -> None:
        api.llama_batch_free(self.batch)
        api.llama_free(self.context)
        api.llama_model_free(self.model)

    def reset(self) -> None:
        api.llama_memory_clear(api.llama_get_memory(self.context), False)

    def feed(self, tokens: list[int], first: int, every: bool = False) -> np.ndarray:
        """float32 [1 or len(tokens), vocab]: logits after the last token, or `every` one; valid until the next call."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, first + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = every or i == len(tokens) - 1
        if status := api.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode failed with status {status}")
        rows = len(tokens) if every else 1
        return np.ctypeslib.as_array(api.llama_get_logits(self.context), (rows, self.vocab))


sessions: list[Session] = []


def open_model(
    path: str, threads: int, context: int, flash_attn: bool | None = None, repack: bool = True
) -> dict[str, Any]:
    """Open the model with these settings in place of the one before; flash_attn None: llama.cpp chooses."""
    while sessions:
        sessions.pop().close()
    sessions.append(Session(path, threads, context, flash_attn, repack))
    return {}


def about() -> dict[str, Any]:
    """What was built: the package's version and the features that the library itself reports."""
    from importlib.metadata import version

    names = {PACKAGE: version(PACKAGE), "numpy": np.__version__}
    return {"versions": names, "system_info": api.llama_print_system_info().decode().strip(" |")}


def decode(prompt: list[int], tokens: int) -> dict[str, Any]:
    """Seconds of `tokens` greedy steps after the prompt: choose a token, compute the next logits, and so on."""
    session = sessions[0]
    session.reset()
    row = session.feed(prompt, 0)[0]
    made = [int(np.argmax(row))]
    start = time.perf_counter()
    for i in range(tokens):
        row = session.feed(made[-1:], len(prompt) + i)[0]
        made.append(int(np.argmax(row)))
    return {"seconds": time.perf_counter() - start, "steps": tokens, "text": made[:8]}


def greedy(prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    """The likeliest `tokens` tokens after each prompt, one after the other; an end token does not end it."""
    session, found = sessions[0], []
    for prompt in prompts:
        session.reset()
        made = [int(np.argmax(session.feed(prompt, 0)[0]))]
        while len(made) < tokens:
            made.append(int(np.argmax(session.feed(made[-1:], len(prompt) + len(made) - 1)[0])))
        found.append(made)
    return {"tokens": found}


def prefill(tokens: list[int]) -> dict[str, Any]:
    """Seconds from an empty cache to the token after `tokens`."""
    session = sessions[0]
    session.reset()
    start = time.perf_counter()
    int(np.argmax(session.feed(tokens, 0)[0]))
    return {"seconds": time.perf_counter() - start}


def logits(tokens: list[int], stepwise: bool, out: str) -> dict[str, Any]:
    """Write float32 [tokens, vocab] to the file `out`."""
    session = sessions[0]
    session.reset()
    if stepwise:
        found = np.concatenate([session.feed([token], i).copy() for i, token in enumerate(tokens)])
    else:
        found = session.feed(tokens, 0, every=True)
    np.save(out, found)
    return {}


if __name__ == "__main__":
    api.llama_backend_init()
    quiet = api.llama_log_callback(lambda level, text, data: None)  # kept alive as long as the library may call it
    api.llama_log_set(quiet, None)
    handlers = {"open": open_model, "about": about, "decode": decode, "prefill": prefill, "greedy": greedy}
    serve({**handlers, "logits": logits})
