"""Turns an error that a user can cause into one line; a bug of ours keeps its traceback."""

from click import ClickException

from autotune import UserError


def one_line(error: BaseException) -> str | None:
    """The message for the user; None when `error` is a bug of ours and deserves its traceback."""
    # Here, not above: `autotune --help` should not pay for the database.
    from kernel_templates.cuda import machine
    from model.errors import ModelError
    from tuning_db.errors import DatabaseError

    gpu = machine.explain(error)
    if isinstance(error, ClickException):
        text = error.format_message()
    elif isinstance(error, UserError | ModelError | DatabaseError):
        text = str(error)
    elif gpu is not None:
        text = gpu
    elif isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # the latter is torch's RuntimeError
        text = "not enough memory; choose a smaller model or a smaller --context"
    elif isinstance(error, OSError):
        text = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    else:
        return None
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
