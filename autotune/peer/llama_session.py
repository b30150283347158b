"""A model opened in llama.cpp: tokens in, logits out, through its C API with no Python in between but the call."""

import time
from typing import Any

import numpy as np

_kept: list[Any] = []
"""Callbacks that the library may call as long as the process lives."""


def start(api: Any) -> None:
    """Once a process: make the library ready, and silent."""
    _kept.append(api.llama_log_callback(lambda level, text, data: None))
    api.llama_backend_init()
    api.llama_log_set(_kept[-1], None)


class LlamaSession:
    """A model and one context. Nothing is shared between two settings but the page cache.

    api: `autotune.peer.xllamacpp_api`, or what has the same functions, such as llama_cpp.llama_cpp; flash_attn None:
    llama.cpp chooses; repack: weights rearranged at load for the vector instructions at hand; batch: most tokens that
    are fed at once, for whose logits there is room from the start. Raises RuntimeError.
    """

    def __init__(
        self,
        api: Any,
        path: str,
        threads: int,
        context: int,
        flash_attn: bool | None,
        repack: bool,
        batch: int | None = None,
    ) -> None:
        self._api = api
        settings = api.llama_model_default_params()
        settings.use_extra_bufts = repack
        self._model = api.llama_model_load_from_file(path.encode(), settings)
        if not self._model:
            raise RuntimeError("the model could not be loaded")
        params = api.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = params.n_ubatch = batch or context
        params.n_threads = params.n_threads_batch = threads
        if flash_attn is not None:
            enabled, disabled = api.LLAMA_FLASH_ATTN_TYPE_ENABLED, api.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.flash_attn_type = enabled if flash_attn else disabled
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("the context could not be made")
        self.vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._batch = api.llama_batch_init(batch or context, 0, 1)

    def close(self) -> None:
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def reset(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)

    def feed(self, tokens: list[int], first: int, every: bool = False) -> np.ndarray:
        """float32 [1 or len(tokens), vocab]: logits after the last token, or `every` one; valid until the next call."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, first + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = every or i == len(tokens) - 1
        if status := self._api.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode failed with status {status}")
        rows = len(tokens) if every else 1
        return np.ctypeslib.as_array(self._api.llama_get_logits(self._context), (rows, self.vocab))

    def decode_seconds(self, prompt: list[int], steps: int) -> float:
        """Of `steps` greedy steps after the prompt: choose a token, compute the next logits, and so on."""
        self.reset()
        token = int(np.argmax(self.feed(prompt, 0)[0]))
        began = time.perf_counter()
        for i in range(steps):
            token = int(np.argmax(self.feed([token], len(prompt) + i)[0]))
        return time.perf_counter() - began
