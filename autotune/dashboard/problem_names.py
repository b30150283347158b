"""Short names of problems for people, as short as they stay different."""

from collections.abc import Iterable, Mapping

from tuning_db import keys


def short_names(problems: Iterable[str]) -> Mapping[str, str]:
    """Names by key: the operation, its main sizes and formats; the whole key where two would have one name."""
    wanted = sorted(set(problems))
    names = {key: _short(key) for key in wanted}
    count: dict[str, int] = {}
    for name in names.values():
        count[name] = count.get(name, 0) + 1
    return {key: name if count[name] == 1 else key for key, name in names.items()}


def _short(key: str) -> str:
    parsed = keys.parse(key)
    sizes = dict(parsed.sizes)
    formats = "/".join(dict.fromkeys(value for name, value in parsed.words if name.endswith("format")))
    parts = [parsed.op]
    if "rows" in sizes:
        parts.append(f"{sizes['rows']}×{sizes.get('cols', '?')}")
    elif "vocab" in sizes:
        parts.append(f"{sizes['vocab']}×{sizes.get('hidden', '?')}")
    elif "hidden" in sizes:
        parts.append(f"{sizes['hidden']}" + (f"×{sizes['ffn']}" if "ffn" in sizes else ""))
    elif "heads" in sizes:
        parts.append(f"{sizes['heads']}/{sizes.get('kv_heads', '?')}×{sizes.get('head_dim', '?')}")
    if formats:
        parts.append(formats)
    if sizes.get("sequences", 1) > 1:
        parts.append(f"{sizes['sequences']} texts")
    if sizes.get("tokens", 1) > 1:
        parts.append(f"{sizes['tokens']} tokens")
    if "context" in sizes:
        parts.append(f"@{sizes['context']}")
    return " ".join(parts)
