"""The process that renders a chat template, once or more: JSON on stdin, JSON on stdout. Run by `model.chat`, never
imported by it.

`environment` is that of the `transformers` library, because that is what templates are written for.
"""

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MEMORY = 512 << 20  # bytes of address space, of which the interpreter and Jinja take about 50 MB
MAX_CPU = 2  # seconds; a long conversation takes 0.2
MAX_OUTPUT = 2 << 20  # characters, of which a tokenizer makes 0.6 GB; a full context of 131,072 tokens has a third


def limit() -> None:
    """Lower this process's own limits, before it reads anything untrusted."""
    try:
        import resource
    except ImportError:  # not on Windows; the parent's timeout remains
        return
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU, MAX_CPU))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def environment() -> "ImmutableSandboxedEnvironment":
    """Jinja as templates are written for it: what `_compile_jinja_template` of transformers sets up, by name and
    signature."""
    from jinja2 import TemplateError, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class GenerationTag(Extension):
        """`{% generation %}` marks the model's own words, for training; here they are rendered as they are, in a scope
        of their own."""

        tags: set[str] = {"generation"}  # noqa: RUF012 (Jinja declares it so)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("render_body"), [], [], body).set_lineno(line)

        def render_body(self, caller: Any) -> str:
            return caller()

    class PlainNamespace(Namespace):
        """`namespace` without names that begin with an underscore, which are Python's."""

        def __init__(*args: Any, **values: Any) -> None:
            for name in dict(*args[1:], **values):
                refuse(name)
            Namespace.__init__(*args, **values)

        def __setitem__(self, name: str, value: Any) -> None:
            refuse(name)
            super().__setitem__(name, value)

    class DictMaker:
        """`dict` without the attributes of Python's class."""

        def __call__(self, *args: Any, **values: Any) -> dict:
            return dict(*args, **values)

        def fromkeys(self, *args: Any) -> dict:
            return dict.fromkeys(*args)

    def refuse(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace holds no name with an underscore ahead, such as {name}")

    def raise_exception(message):
        raise TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(format):
        return datetime.now().strftime(format)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = tojson
    made.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    made.globals |= {"dict": DictMaker(), "namespace": PlainNamespace}
    return made


def render(source: str, values: dict[str, Any]) -> str:
    """Raises whatever the template raises, MemoryError included."""
    from jinja2 import TemplateError

    size, pieces = 0, []
    for piece in environment().from_string(source).generate(**values):
        size += len(piece)
        if size > MAX_OUTPUT:
            raise TemplateError(f"its output is longer than {MAX_OUTPUT} characters")
        pieces.append(piece)
    return "".join(pieces)


def answer(source: str, values: dict[str, Any]) -> dict[str, str]:
    """The text, or why there is none."""
    try:
        return {"text": render(source, values)}
    except RecursionError:
        return {"error": "it nests too deeply"}
    except MemoryError:
        return {"error": f"it needs more than {MAX_MEMORY >> 20} MB of memory"}
    except Exception as error:
        return {"error": str(error) or type(error).__name__}


def main() -> None:
    limit()
    request = json.load(sys.stdin.buffer)
    sys.stdout.write(json.dumps([answer(request["template"], values) for values in request["values"]]))


if __name__ == "__main__":
    main()
