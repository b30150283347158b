"""The one exception of this package, what several places say in it, and how text from an untrusted file is quoted."""


class ModelError(ValueError):
    """Something is wrong with a model file or a request; the message is one line: what is wrong and what to do."""


NOT_FINITE = "the largest logit is not a finite number; the model's numbers overflowed or its file is damaged"


def quoted(value: object, limit: int = 60) -> str:
    """`value` in quotes, cut to `limit` characters and without control characters: safe in a one-line message."""
    text = str(value)
    return repr(text if len(text) <= limit else text[:limit] + "...")
