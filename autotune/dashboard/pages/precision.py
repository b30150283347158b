"""The page "Precision": which operations of a model err most on exact inputs, and what each file of it costs."""

from collections import defaultdict
from collections.abc import Sequence

from autotune.dashboard import page_elements as ui
from autotune.dashboard.page_data import PageData, PrecisionFile
from autotune.precision.precision_result import (
    PATHS,
    Beside,
    Divergence,
    ModelPrecision,
)

EXTREMES = 20  # rows of a table of extremes
ERROR = "‖found − wanted‖ ÷ ‖wanted‖"
KL = "reference ‖ engine, nats"


def page(data: PageData) -> ui.Page:
    details = [_detail(f"precision-{place}", one) for place, one in enumerate(data.precisions)]
    question = "Where does a model lose precision, and what does each of its files cost?"
    return ui.Page("precision", "Precision", question, _answer(data.precisions), (), "model", tuple(details))


def _answer(files: Sequence[PrecisionFile]) -> str:
    if not files:
        return "No precision was measured: give --precision FILE with what autotune precision --json printed."
    return " ".join(one.result.answer or f"Of {one.result.model} no operation was measured." for one in files)


def _detail(id: str, one: PrecisionFile) -> ui.Detail:
    result = one.result
    blocks: list[ui.Block] = [ui.Words(_sentence(result)), _engines(result)]
    for path in PATHS:
        if any(row.path == path for row in result.operations):
            blocks += [_by_layer(result, path), _by_operation(result, path)]
    blocks += [_norms(result), _activations(result)]
    if result.beside is not None:
        blocks += [_files_chart(result.beside), _files(result.beside)]
    return ui.Detail(id, result.model, tuple(blocks))


def _sentence(result: ModelPrecision) -> str:
    text = f"{result.model} on {result.chip}, commit {result.versions.get('commit', 'unknown')}."
    if tokens := result.settings.get("tokens"):
        text += f" {tokens} tokens; kernels of a decode step alone at {result.settings.get('positions', '?')} of them."
    return " ".join(filter(None, [text, result.extremes, *result.notes]))


def _divergence(found: Divergence | None) -> tuple[ui.Cell, ...]:
    if found is None:
        return (ui.percent_cell(None), *(ui.number_cell(None) for _ in range(3)))
    return (
        ui.percent_cell(found.top1, digits=1), ui.number_cell(found.mean_kl), ui.number_cell(found.p99_kl),
        ui.number_cell(found.max_kl),
    )  # fmt: skip


DIVERGENCE = (
    ui.Column("top-1", "positions with the reference's likeliest token", True), ui.Column("mean KL", KL, True),
    ui.Column("99% KL", KL, True), ui.Column("max KL", KL, True),
)  # fmt: skip


def _engines(result: ModelPrecision) -> ui.Table:
    rows = tuple((ui.Cell(row.engine), ui.Cell(row.path), *_divergence(row.divergence)) for row in result.engines)
    columns = (ui.Column("engine"), ui.Column("path"), *DIVERGENCE)
    return ui.Table(f"Logits against float32 over the same weights, {result.model}", columns, rows)


def _by_layer(result: ModelPrecision, path: str) -> ui.XY:
    series = tuple(
        ui.Series(
            name, "line",
            tuple(
                (float(row.layer), row.error, f"{row.where}: {row.error:.3g}")
                for row in rows
                if row.layer is not None and 0 < row.error < float("inf")
            ),
        )
        for name, rows in result.by_operation(path).items()
        if any(row.layer is not None for row in rows)
    )  # fmt: skip
    axis = ui.Axis("error, mean over positions", ERROR, log=True)
    return ui.XY(
        f"Error of each operation alone in {PATHS[path]}, {result.model}", ui.Axis("layer", "number"), axis, series
    )


def _by_operation(result: ModelPrecision, path: str) -> ui.Table:
    columns = (
        ui.Column("operation"), ui.Column("mean error", f"{ERROR}, mean over layers", True),
        ui.Column("largest", f"{ERROR}, of one layer", True), ui.Column("of layer", "its number", True),
        ui.Column("worst there", f"{ERROR}, at one position", True), ui.Column("at position", "of the text", True),
    )  # fmt: skip
    rows = []
    for name, found in result.summaries(path).items():
        top = found.top
        rows.append(
            (
                ui.Cell(name), ui.number_cell(found.mean), ui.number_cell(top.error), ui.number_cell(top.layer, 0),
                ui.number_cell(top.worst), ui.number_cell(top.position, 0),
            )
        )  # fmt: skip
    return ui.Table(f"Operations alone in {PATHS[path]}, {result.model}", columns, tuple(rows))


def _norms(result: ModelPrecision) -> ui.Table:
    columns = (
        ui.Column("norm"), ui.Column("channel", "in the file's order", True), ui.Column("weight", "the largest", True),
        ui.Column("median", "of magnitudes", True), ui.Column("ratio", "|weight| ÷ median", True),
    )  # fmt: skip
    rows = tuple(
        (
            ui.Cell(row.tensor), ui.number_cell(row.channel, 0), ui.number_cell(row.weight),
            ui.number_cell(row.median), ui.number_cell(row.ratio, 1, "×"),
        )
        for row in result.extreme_norms[:EXTREMES]
    )  # fmt: skip
    return ui.Table(f"Extreme norm weights, {result.model}", columns, rows)


def _activations(result: ModelPrecision) -> ui.Table:
    columns = (
        ui.Column("layer", "its number", True), ui.Column("channel", "of the residual stream", True),
        ui.Column("position", "of the text", True), ui.Column("value", "the largest after the layer", True),
        ui.Column("RMS", "of all after the layer", True), ui.Column("ratio", "|value| ÷ RMS", True),
    )  # fmt: skip
    rows = tuple(
        (
            ui.number_cell(row.layer, 0), ui.number_cell(row.channel, 0), ui.number_cell(row.position, 0),
            ui.number_cell(row.value), ui.number_cell(row.rms), ui.number_cell(row.ratio, 1, "×"),
        )
        for row in result.extreme_activations[:EXTREMES]
    )  # fmt: skip
    return ui.Table(f"Extreme activations, {result.model}", columns, rows)


def _files_chart(beside: Beside) -> ui.XY:
    """By size and KL: what lies below and to the left of another is the better choice."""
    by_engine: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for row in beside.files:
        if row.divergence is not None and row.divergence.mean_kl > 0:
            megabytes, kl = row.file_bytes / 1e6, row.divergence.mean_kl
            by_engine[row.engine].append((megabytes, kl, f"{row.file}: {megabytes:,.1f} MB, {kl:.3g} nats"))
    series = tuple(ui.Series(engine, "dots", tuple(points)) for engine, points in by_engine.items())
    axis = ui.Axis(f"mean KL to float32 over {beside.reference}", "nats", log=True)
    return ui.XY("Files side by side: size and divergence", ui.Axis("file", "MB"), axis, series)


def _files(beside: Beside) -> ui.Table:
    columns = (
        ui.Column("file"), ui.Column("engine"), ui.Column("size", "MB", True),
        ui.Column("bits a weight", "of all tensors", True), ui.Column("decode", "tok/s", True), *DIVERGENCE,
        ui.Column("not measured"),
    )  # fmt: skip
    rows = tuple(
        (
            ui.Cell(row.file), ui.Cell(row.engine), ui.number_cell(row.file_bytes / 1e6, 1),
            ui.number_cell(row.bits_per_weight, 2), ui.number_cell(row.decode_tok_s, 1), *_divergence(row.divergence),
            ui.Cell(row.failure),
        )
        for row in beside.files
    )  # fmt: skip
    return ui.Table(f"Files side by side, decode against float32 over {beside.reference}", columns, rows)
