"""The one exception of this package, and how text from an untrusted file is quoted in it."""


class ModelError(ValueError):
    """Something is wrong with a model file or a request; the message is one line: what is wrong and what to do."""


def quoted(value: object, limit: int = 60) -> str:
    """`value` in quotes, cut to `limit` characters and without control characters: safe in a one-line message."""
    text = str(value)
    return repr(text if len(text) <= limit else text[:limit] + "...")
