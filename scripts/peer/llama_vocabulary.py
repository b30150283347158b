"""A vocabulary as llama.cpp reads it, without the weights: the judge of our tokens."""

import ctypes
from pathlib import Path

from autotune.peer import xllamacpp_api as api

LONGEST = 1 << 12  # bytes of a token
_silent = api.llama_log_callback(lambda level, text, data: None)


class Vocabulary:
    """Opened from a GGUF file, which needs no tensors. Raises RuntimeError if llama.cpp refuses it."""

    def __init__(self, path: Path) -> None:
        api.llama_log_set(ctypes.cast(_silent, ctypes.c_void_p), None)
        settings = api.llama_model_default_params()
        settings.vocab_only = True
        self._model = api.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise RuntimeError(f"llama.cpp does not open {path}")
        self._vocabulary = api.llama_model_get_vocab(self._model)
        self.size = api.llama_vocab_n_tokens(self._vocabulary)
        self.add_bos = api.llama_vocab_get_add_bos(self._vocabulary)
        self.bos = api.llama_vocab_bos(self._vocabulary)
        self.ends = frozenset(i for i in range(self.size) if api.llama_vocab_is_eog(self._vocabulary, i))

    def close(self) -> None:
        api.llama_model_free(self._model)

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        room = (ctypes.c_int32 * (len(data) + 8))()
        count = api.llama_tokenize(
            self._vocabulary, data, len(data), room, len(room), add_special, parse_special
        )  # fmt: skip
        if count < 0:
            raise RuntimeError(f"llama_tokenize wants room for {-count} tokens of {len(data)} bytes")
        return room[:count]

    def token_bytes(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(LONGEST)
        count = api.llama_token_to_piece(self._vocabulary, token, room, len(room), 0, True)
        return ctypes.string_at(room, count)
