"""`autotune dashboard`: writes or serves what the tuning database knows as one page."""

from pathlib import Path

import click

from autotune import UserError
from autotune.commands import options, output
from autotune.commands.errors import one_line


@click.command()
@click.option(
    "-o", "--output", "target", metavar="FILE", type=click.Path(path_type=Path), help="File to write the page to."
)
@click.option("--serve", is_flag=True, help="Serve the page on this machine's loopback address until interrupted.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Port to serve on; 0 takes a free one.",
)
@click.option(
    "--format", "form", type=click.Choice(["html", "perfetto"]), default="html", show_default=True,
    help="html: the page; perfetto: a token's timeline for ui.perfetto.dev.",
)  # fmt: skip
@click.option(
    "--bench", "benches", metavar="FILE", type=click.Path(path_type=Path), multiple=True,
    help="Benchmark of a model, as autotune bench --json printed it; may be given several times.",
)  # fmt: skip
@click.option(
    "--precision", "precisions", metavar="FILE", type=click.Path(path_type=Path), multiple=True,
    help="Where a model loses precision, as autotune precision --json printed it; may be given several times.",
)  # fmt: skip
@click.option("--against", metavar="FILE", type=click.Path(path_type=Path), help="Tuning database to compare with.")
@options.db_option
def dashboard(
    target: Path | None, serve: bool, port: int, form: str, benches: tuple[Path, ...], precisions: tuple[Path, ...],
    against: Path | None, db_path: Path | None,
) -> None:  # fmt: skip
    """Show what was tuned, how the search went and what limits it.

    The page is one file that opens without a server and without a network. With --serve the same pages follow the
    database while something is being tuned. Nothing is changed, in neither case.

    \b
    Example:
      autotune dashboard -o page.html
      autotune dashboard --serve
      autotune dashboard --format perfetto --bench bench.json -o token.json
    """
    if serve == (target is not None):
        raise UserError("say where the page should go: either -o FILE or --serve")
    if serve and form != "html":
        raise UserError("--format perfetto makes a file: give -o FILE instead of --serve")
    options.writable(target, "-o")
    from autotune.dashboard import build

    if serve:
        _serve((db_path, against, benches, precisions), port)
        return
    assert target is not None
    page = form == "html"
    text = build.html(db_path, against, benches, precisions) if page else build.trace(db_path, benches)
    target.write_text(text, encoding="utf-8")
    output.note(f"{target}: {len(text.encode()) / 1e6:.2f} MB")


Files = tuple[Path | None, Path | None, tuple[Path, ...], tuple[Path, ...]]
"""The database, another to compare with, benchmarks, documents of precision."""


def _serve(files: Files, port: int) -> None:
    from autotune.dashboard import build
    from autotune.dashboard.serve import Server
    from tuning_db import default_path

    database, against, *documents = files
    named = (database or default_path(), against, *documents[0], *documents[1])
    watched = [file for path in named if path for file in (path, path.with_name(path.name + "-wal"))]

    def state() -> list[tuple[int, int] | None]:
        return [(at.st_mtime_ns, at.st_size) if (at := _stat(file)) else None for file in watched]

    build.html(*files)  # what cannot be shown is said now, not to the first reader
    with Server(port, lambda: build.html(*files, live=True), state, one_line) as server:
        output.line(f"{server.url} (Ctrl-C ends it)")
        server.serve_forever()


def _stat(file: Path):
    try:
        return file.stat()
    except OSError:
        return None
