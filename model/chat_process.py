"""The process that renders one chat template: JSON on stdin, JSON on stdout. Run by `model.chat`, never imported by it.

Environment as in the `transformers` library (trim_blocks, lstrip_blocks, loop controls, raise_exception, strftime_now,
an unescaped tojson), because that is what templates are written for.
"""

import json
import sys
from datetime import datetime
from typing import Any

MAX_MEMORY = 512 << 20  # bytes of address space, of which the interpreter and Jinja take about 50 MB
MAX_CPU = 2  # seconds; a long conversation takes 0.2
MAX_OUTPUT = 2 << 20  # characters, of which the tokenizer makes 0.4 GB; a full context of 131,072 tokens has a third


def limit() -> None:
    """Lower this process's own limits, before it reads anything untrusted."""
    try:
        import resource
    except ImportError:  # not on Windows; the parent's timeout remains
        return
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU, MAX_CPU))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def render(source: str, values: dict[str, Any]) -> str:
    """Raises whatever the template raises, MemoryError included."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    size, pieces = 0, []
    for piece in environment.from_string(source).generate(**values):
        size += len(piece)
        if size > MAX_OUTPUT:
            raise TemplateError(f"its output is longer than {MAX_OUTPUT} characters")
        pieces.append(piece)
    return "".join(pieces)


def main() -> None:
    limit()
    request = json.load(sys.stdin.buffer)
    try:
        answer = {"text": render(request["template"], request["values"])}
    except RecursionError:
        answer = {"error": "it nests too deeply"}
    except MemoryError:
        answer = {"error": f"it needs more than {MAX_MEMORY >> 20} MB of memory"}
    except Exception as error:
        answer = {"error": str(error) or type(error).__name__}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
