"""The part of llama.cpp's C API that is called here, of the library inside the wheel xllamacpp.

The wheel is llama.cpp prebuilt, and its own Python API is a server; but the library exports the C API. Two structures
are passed by value. Of these only the fields that we set are named here, at the places that they have in VERSION; what
the library fills in by default is compared with what llama.h promises, so that another layout is refused.
Source of names and types: include/llama.h of llama.cpp.
"""

import ctypes
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

NAME, VERSION = "xllamacpp", "2026.10"
LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_ENABLED = 0, 1
_AUTOMATIC = -1


class ModelParams(ctypes.Structure):
    """llama_model_params; its size is less than this."""

    _fields_ = (
        ("_before", ctypes.c_uint8 * 72),
        ("vocab_only", ctypes.c_bool),
        ("check_tensors", ctypes.c_bool),
        ("use_extra_bufts", ctypes.c_bool),
        ("no_host", ctypes.c_bool),
        ("_after", ctypes.c_uint8 * 436),
    )


class ContextParams(ctypes.Structure):
    """llama_context_params; its size is less than this."""

    _fields_ = (
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("_between", ctypes.c_uint32 * 4),
        ("n_threads", ctypes.c_int32),
        ("n_threads_batch", ctypes.c_int32),
        ("_types", ctypes.c_int32 * 4),
        ("flash_attn_type", ctypes.c_int32),
        ("_after", ctypes.c_uint32 * 114),
    )


class Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_pointer, _int, _bool = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_batch_free": (None, (Batch,)),
    "llama_batch_init": (Batch, (_int, _int, _int)),
    "llama_context_default_params": (ContextParams, ()),
    "llama_decode": (_int, (_pointer, Batch)),
    "llama_free": (None, (_pointer,)),
    "llama_get_logits": (ctypes.POINTER(ctypes.c_float), (_pointer,)),
    "llama_get_memory": (_pointer, (_pointer,)),
    "llama_init_from_model": (_pointer, (_pointer, ContextParams)),
    "llama_log_set": (None, (_pointer, _pointer)),
    "llama_memory_clear": (None, (_pointer, _bool)),
    "llama_model_default_params": (ModelParams, ()),
    "llama_model_free": (None, (_pointer,)),
    "llama_model_get_vocab": (_pointer, (_pointer,)),
    "llama_model_load_from_file": (_pointer, (ctypes.c_char_p, ModelParams)),
    "llama_print_system_info": (ctypes.c_char_p, ()),
    "llama_token_to_piece": (_int, (_pointer, _int, ctypes.c_char_p, _int, _int, _bool)),
    "llama_tokenize": (_int, (_pointer, ctypes.c_char_p, _int, ctypes.POINTER(_int), _int, _bool, _bool)),
    "llama_vocab_bos": (_int, (_pointer,)),
    "llama_vocab_get_add_bos": (_bool, (_pointer,)),
    "llama_vocab_is_eog": (_bool, (_pointer, _int)),
    "llama_vocab_n_tokens": (_int, (_pointer,)),
}
llama_log_callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


@cache
def _library() -> ctypes.CDLL:
    """Loaded when a function is first asked for. Raises ImportError."""
    spec = find_spec(NAME)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{NAME} is not installed; ./scripts/setup_env peer installs it")
    library = ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / f"{NAME}.abi3.so"))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    model, context = library.llama_model_default_params(), library.llama_context_default_params()
    flags = (model.vocab_only, model.check_tensors, model.use_extra_bufts, model.no_host)
    types = (context.n_threads, context.n_threads_batch, context.flash_attn_type, context._types[3])
    if flags != (False, False, True, False) or types != (4, 4, _AUTOMATIC, _AUTOMATIC):
        raise ImportError(f"{NAME} {version(NAME)} orders its settings unlike {VERSION}; install {NAME}~={VERSION}.0")
    return library


def __getattr__(name: str) -> object:
    """A function of the library."""
    if name not in _SIGNATURES:
        raise AttributeError(name)
    return getattr(_library(), name)
