"""The environment that templates run in is that of transformers, by names, signatures and what it renders."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from model.chat import ChatTemplate
from model.chat_process import environment

# What differs from Jinja's own in transformers 5.24.0: _compile_jinja_template and render_jinja_template in
# utils/chat_template_utils.py.
RECORDED: dict[str, Any] = {
    "settings": {"trim_blocks": True, "lstrip_blocks": True, "autoescape": False, "keep_trailing_newline": False},
    "tags": ["break", "continue", "generation"],
    "filters": {"tojson": "(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)"},
    "globals": {
        "dict": "(*args, **kwargs)",
        "namespace": "(*args, **kwargs)",
        "raise_exception": "(message)",
        "strftime_now": "(format)",
    },
    "variables": ["add_generation_prompt", "documents", "messages", "tools"],
}


def shape(made: Any) -> dict[str, Any]:
    """What of an environment differs from Jinja's own."""
    plain = ImmutableSandboxedEnvironment()

    def changed(table: dict[str, Any], default: dict[str, Any]) -> dict[str, str]:
        found = {name: value for name, value in table.items() if default.get(name) is not value}
        return {name: signature(value) for name, value in sorted(found.items()) if name not in KEPT}

    return {
        "settings": {name: getattr(made, name) for name in RECORDED["settings"]},
        "tags": sorted(tag for extension in made.extensions.values() for tag in extension.tags),
        "filters": changed(made.filters, plain.filters),
        "globals": changed(made.globals, plain.globals),
    }


KEPT = {"range", "lipsum", "cycler", "joiner"}
"""Globals that a sandbox makes anew, each time."""


def signature(value: Any) -> str:
    """A callable's parameters with their defaults, without annotations; what takes anything is written in one way."""
    parameters = inspect.signature(value).parameters.values()
    if all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return "(*args, **kwargs)"
    return f"({', '.join(str(p.replace(annotation=p.empty)) for p in parameters)})"


def test_names_and_signatures_are_those_recorded() -> None:
    assert shape(environment()) | {"variables": RECORDED["variables"]} == RECORDED


def test_variables_are_there_without_being_given() -> None:
    names = " ".join(f"{{{{ {name} is defined }}}}" for name in RECORDED["variables"])
    assert (
        ChatTemplate(names + " {{ tools is none and documents is none }}").render(HELLO) == "True True True True True"
    )


HELLO = [{"role": "user", "content": "Hi <é>\n"}]
TEMPLATES = (
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{%- generation -%}  a  {%- endgeneration -%}  b",
    "{{ messages[0] | tojson }}|{{ messages | tojson(indent=2) }}|{{ messages[0] | tojson(separators=(',', ':')) }}",
    "{{ messages[0] | tojson(ensure_ascii=true, sort_keys=true) }}",
    "{{ messages[0] | tojson(true, 1, none, true) }}",
    "{{ dict(a=1, b=[2]) }}{{ dict.fromkeys([1, 2], 0) }}{{ dict({'x': 1}) | length }}",
    "{% set n = namespace(a=1, self=2) %}{% set n.b = n.a + n.self %}{{ n.b }}",
    "{% if tools is not none %}{{ tools | tojson }}{% endif %}{% if not documents %}none{% endif %}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{{ strftime_now('%Y') | length }}{{ messages[0]['content'] | trim | upper }}{{ messages[0].content[:2] }}",
    "  {% if true %}\n  x\n  {% endif %}\ny\n",
)
REFUSED = (
    "{{ raise_exception('no') }}",
    "{% set n = namespace(_a=1) %}",
    "{% set n = namespace() %}{% set n._a = 1 %}",
    "{{ dict.mro() }}",
    "{{ messages[0].update(a=1) }}",
)


def rendered(template: Callable[[], str]) -> str | None:
    """None where it is refused."""
    try:
        return template()
    except Exception:
        return None


def test_generation_is_a_scope_of_its_own() -> None:
    assert ChatTemplate(TEMPLATES[0]).render(HELLO) == HELLO[0]["content"]
    assert ChatTemplate(TEMPLATES[1]).render(HELLO) == "21"


@pytest.mark.parametrize("source", REFUSED)
def test_what_is_refused(source: str) -> None:
    assert rendered(lambda: ChatTemplate(source).render(HELLO)) is None


@pytest.mark.slow
def test_transformers_own_renders_the_same() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils", reason="compares with the real transformers")
    assert shape(utils._compile_jinja_template("x").environment) == shape(environment())
    for source in (*TEMPLATES, *REFUSED):
        theirs = rendered(
            lambda: utils.render_jinja_template([HELLO], chat_template=source, add_generation_prompt=True)[0][0]  # noqa: B023
        )
        assert rendered(lambda: ChatTemplate(source).render(HELLO)) == theirs, source  # noqa: B023
