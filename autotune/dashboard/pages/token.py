"""The page "Token": the time of a decode step by kernel, and its gaps, untuned beside tuned."""

from autotune.benchmarking.benchmark_result import KernelTime, ModelBenchmark, Side
from autotune.dashboard import page_elements as ui
from autotune.dashboard.page_data import BenchmarkFile, PageData


def page(data: PageData) -> ui.Page:
    details = [_measured(f"token-{place}", one) for place, one in enumerate(data.benchmarks)]
    question = "Where does a decode step's time go: kernels and gaps, untuned beside tuned?"
    return ui.Page("token", "Token", question, _answer(data), (), "model", tuple(details))


def _kernels_of(side: Side) -> list[KernelTime]:
    """Without the row of the whole token."""
    return [row for row in side.kernels if row.kernel != KernelTime.TOKEN]


def _answer(data: PageData) -> str:
    if not data.benchmarks:
        return "No token was measured: give --bench FILE with what autotune bench --json printed."
    sentences = []
    for one in data.benchmarks:
        kernels = _kernels_of(one.result.tuned)
        total = sum(row.us for row in kernels)
        if total:
            most = max(kernels, key=lambda row: row.us)
            sentences.append(f"{one.model} {most.kernel} ({most.us / total:.0%})")
    return (
        f"What takes most of a tuned token's kernel time: {', '.join(sentences)}."
        if sentences
        else "No kernels were timed."
    )


def _measured(id: str, one: BenchmarkFile) -> ui.Detail:
    result = one.result
    before = {row.kernel: row.us for row in result.untuned.kernels}
    rows = tuple((row.kernel, (before.get(row.kernel), row.us)) for row in _kernels_of(result.tuned))
    how = "captured alone" if result.captured_alone else "timed inside it"
    axis = ui.Axis(f"all launches of a token, {how}", "µs", zero=True)
    chart = ui.Bars(f"Where a token's time goes, {one.model}", axis, ("untuned", "tuned"), rows)
    return ui.Detail(id, one.model, (ui.Words(_sentence(one)), chart, _kernels(one), _depths(result)))


def _sentence(one: BenchmarkFile) -> str:
    result = one.result
    text = f"{result.model} on {result.chip}"
    if one.date:
        text += f", {one.date}"
    text += f", commit {result.versions.get('commit', 'unknown')}."
    tuned, untuned = result.tuned.kernel(KernelTime.TOKEN), result.untuned.kernel(KernelTime.TOKEN)
    if tuned and untuned and tuned.us:
        text += f" A token takes {tuned.us:,.0f} µs tuned and {untuned.us:,.0f} µs untuned"
        text += f" ({untuned.us / tuned.us:.2f}×)."
        if result.captured_alone:
            text += _overlap(sum(row.us for row in _kernels_of(result.tuned)), tuned.us)
    rate = result.tuned.shallowest.tok_s
    if tuned and rate:
        outside = 1e6 / rate - tuned.us
        text += f" As a user gets it, sampled and read by Python, a token takes {1e6 / rate:,.0f} µs"
        where = "on the GPU" if result.captured_alone else "in its kernels"
        text += f", {outside:,.0f} µs more than {where}." if outside >= 1 else "."
    return text


def _overlap(alone_us: float, token_us: float) -> str:
    hidden = (
        f"{alone_us - token_us:,.0f} µs of them are hidden by kernels that overlap"
        if alone_us > token_us
        else f"the other {token_us - alone_us:,.0f} µs are gaps between kernels"
    )
    return f" Its kernels captured alone add up to {alone_us:,.0f} µs: {hidden}."


def _kernels(one: BenchmarkFile) -> ui.Table:
    columns = (
        ui.Column("kernel"), ui.Column("launches", "in a token", True),
        ui.Column("untuned", "all launches, µs", True), ui.Column("tuned", "all launches, µs", True),
        ui.Column("speed-up", "untuned ÷ tuned", True), ui.Column("each", "tuned ÷ launches, µs", True),
        ui.Column("MB", "bytes needed", True), ui.Column("GB/s", "bytes needed ÷ tuned time", True),
        ui.Column("of roof", "GB/s ÷ measured read bandwidth", True),
    )  # fmt: skip
    rows = []
    for row in one.result.tuned.kernels:
        before = one.result.untuned.kernel(row.kernel)
        gain = before.us / row.us if before and row.us else None
        tone = "" if gain is None else "good" if gain >= 1.05 else "bad" if gain <= 0.95 else ""
        rows.append(
            (
                ui.Cell(row.kernel), ui.number_cell(row.count, 0), ui.number_cell(before.us if before else None, 1),
                ui.number_cell(row.us, 1), ui.number_cell(gain, 2, "×", tone), ui.number_cell(row.us_each, 2),
                ui.number_cell(row.bytes / 1e6 if row.bytes is not None else None, 1), ui.number_cell(row.gb_s, 0),
                ui.percent_cell(one.result.share(row.gb_s)),
            )
        )  # fmt: skip
    return ui.Table(f"Kernels of one token, {one.model}", columns, tuple(rows))


def _depths(result: ModelBenchmark) -> ui.Table:
    columns = (
        ui.Column("tokens before", "", True), ui.Column("kernels"), ui.Column("decode", "tok/s, median", True),
        ui.Column("GB/s", "bytes a token needs × tok/s", True),
        ui.Column("of roof", "GB/s ÷ measured read bandwidth", True), ui.Column("launches", "kernels a token", True),
    )  # fmt: skip
    rows = tuple(
        (
            ui.Cell(str(depth), float(depth)), ui.Cell(name), ui.number_cell(row.tok_s, 0),
            ui.number_cell(row.gb_s, 0), ui.percent_cell(result.share(row.gb_s)), ui.number_cell(row.kernels, 0),
        )
        for name, side in result.sides.items()
        for depth, row in side.decode.items()
    )  # fmt: skip
    return ui.Table("Decoding after so many tokens", columns, rows)
