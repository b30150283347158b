"""Renders pages as one HTML file: no request leaves it, and the same pages give the same bytes.

Details (a run, a kernel, a pair) are packed until someone opens them; the browser unpacks them itself
(DecompressionStream). Everything goes through Jinja's escaping, and the page's Content-Security-Policy lets only
this file's own script run, so that text from a database or a profile stays text.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache

import jinja2
from markupsafe import Markup

from autotune.dashboard.charts import draw
from autotune.dashboard.page_elements import Page
from autotune.dashboard.text_packing import CODES, MARKUP, compressed, packed

SCRIPTS = ("metrics.js", "trace.js", "page.js")  # in one element; the last one begins
TOGETHER = 8  # details in one piece: alike, so that gzip sees what they share, and few, so that one is soon unpacked
_SELF, _NONE = "'self'", "'none'"


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("autotune.dashboard")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals["draw"] = draw
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment


def render(pages: Sequence[Page], title: str, live: bool = False) -> str:
    """live: the page asks its server now and then whether there is something new."""
    jinja = environment()
    assert jinja.loader is not None

    def asset(name: str) -> Markup:
        # Our own files, in elements whose content is not escaped: neither holds a closing tag.
        return Markup(jinja.loader.get_source(jinja, name)[0].strip())  # type: ignore[union-attr]

    style, early = asset("style.css"), asset("early.js")
    script = Markup("\n").join(map(asset, SCRIPTS))
    return jinja.get_template("page.html.j2").render(
        pages=pages,
        together=TOGETHER,
        packed={page.id: _packed(page) for page in pages},
        data={name: compressed(content) for page in pages for name, content in page.packs.items()},
        markup=dict(zip(CODES, MARKUP, strict=True)),
        title=title,
        live=live,
        style=style,
        early=early,
        script=script,
        policy=(
            f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(early)} {_digest(script)}; "
            f"img-src data:; connect-src {_SELF if live else _NONE}; base-uri 'none'; form-action 'none'"
        ),
    )


def _packed(page: Page) -> list[str]:
    """The page's details, TOGETHER at a time."""
    template = environment().get_template("detail.html.j2")
    made = [template.render(detail=detail) for detail in page.details]
    return [packed(made[first : first + TOGETHER]) for first in range(0, len(made), TOGETHER)]


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
