"""Packs details: markup that tables repeat thousands of times as one control character each, then gzip and base64.

Without the first step gzip spends two or three bytes on every cell's tags: of a run's trials more than on the numbers.
The browser does it backwards (templates/page.js).
"""

import base64
import gzip
import re
from collections.abc import Sequence

# Text has no control characters: they are taken out before.
_SEEN = (
    '</td></tr>\n<tr><td class="n">', "</td></tr>\n<tr><td>", '</td><td class="n">', "</td><td>",
    '</td><td class="bad">',
    '</td><td class="n quiet">', '"/>\n<circle class="s0" cx="', '" r="3" data-tip="', '" cy="',
    '</td></tr>\n<tr data-key="', '"><td class="n"><button type="button" aria-pressed="false">',
    '</button></td><td class="n">', "</td><td><code>", "</code></td><td>", '</td></tr>\n<tr class="heat',
    '" data-key="',
    '"/>\n<text x="', '" text-anchor="', '"/>\n<path class="grid" d="M', '</text>\n<path class="grid" d="M',
    '</text>\n<rect class="s', '" width="', '" height="', '</button></th>\n<th scope="col"><button type="button">',
    '</th>\n<th scope="col" class="n"><button type="button">', '</small></th>\n<th scope="col"><button type="button">',
    "</button><small>",
)  # fmt: skip
MARKUP = tuple(sorted(_SEEN, key=len, reverse=True))  # a longer one may hold a shorter one
CODES = "".join(chr(code) for code in range(1, 32) if chr(code) not in "\t\n\r")[: len(MARKUP)]
SEPARATOR = "\0"
_CONTROLS = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f]")


def without_controls(text: str) -> str:
    """Each control character that neither HTML nor XML allows becomes the replacement character."""
    return _CONTROLS.sub("\ufffd", text)


def packed(details: Sequence[str]) -> str:
    """base64 text, the same for the same HTML; what several details have in common is said once."""
    short = SEPARATOR.join(without_controls(html) for html in details)
    for code, markup in zip(CODES, MARKUP, strict=True):
        short = short.replace(markup, code)
    return compressed(short.encode())


def compressed(content: bytes) -> str:
    """gzip and base64; the same text for the same bytes."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def unpacked(text: str) -> list[str]:
    """The HTML that `packed` was given."""
    html = gzip.decompress(base64.b64decode(text)).decode()
    for code, markup in zip(CODES, MARKUP, strict=True):
        html = html.replace(code, markup)
    return html.split(SEPARATOR)
