"""`autotune cache`: shows what is kept on disk to start faster, and removes it."""

import contextlib
import shutil
from typing import Any

import click

from autotune.commands import options, output

KINDS = {
    "kernels": "compiled kernels of this processor",
    "cubins": "compiled kernels of GPUs",
    "starts": "which of those a model's first text needs",
    "proofs": "verdicts on configurations from elsewhere",
    "weights": "models' weights as this processor reads them",
}


@click.command()
@click.option("--clear", is_flag=True, help="Remove all of it; the next start is slower, nothing else.")
@options.json_option
def cache(clear: bool, as_json: bool) -> None:
    """Show the files that make a start fast, or remove them.

    They lie in $AUTOTUNE_CACHE, else in the user's cache directory. Weights take at most $AUTOTUNE_WEIGHT_CACHE_GB
    (20; 0 keeps none), kernels of GPUs 0.5 GB: those not used for longest go first. What was tuned is not here but in
    the database.

    \b
    Example:
      autotune cache --clear
    """
    from kernel_templates import cache_folder

    root = cache_folder.path()
    rows: list[dict[str, Any]] = []
    for kind, what in KINDS.items():
        sizes = []
        for file in (root / kind).glob("*"):
            with contextlib.suppress(OSError):  # another process may just have removed it
                sizes.append(file.stat().st_size)
        rows.append({"folder": kind, "files": len(sizes), "bytes": sum(sizes), "what": what})
        if clear:
            shutil.rmtree(root / kind, ignore_errors=True)
    if as_json:
        output.print_json({"path": str(root), "cleared": clear, "folders": rows})
        return
    lines = [(r["folder"], str(r["files"]), output.number(r["bytes"] / 1e6), r["what"]) for r in rows]
    output.print_table(str(root), ("folder", "files", "MB", "what"), lines, ("files", "MB"))
    if clear:
        click.echo("removed")
