"""Requests and answers as JSON lines over a worker's stdin and stdout. Standard library only: the peer has no more."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any


def serve(handlers: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer {"op": name, **arguments} by handlers[name](**arguments) until stdin ends; a failure is {"error": text}.

    File descriptor 1 becomes stderr first, so that nothing a library prints can break the protocol.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request.pop("op")](**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
