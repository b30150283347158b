"""The page "Overview": winners by problem, their share of the roof, and the speed-up from tuning."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.dashboard import page_elements as ui
from autotune.dashboard.page_data import BenchmarkFile, Database, PageData
from autotune.dashboard.problem_names import short_names
from tuning_db.records import Outcome, StoredWinner

NEAR = 0.9  # of the roof counts as being there


@dataclass(frozen=True)
class Row:
    """One current winner; gb_s: the bytes that the problem needs over its time; share: of the measured read roof."""

    stored: StoredWinner
    name: str
    gb_s: float | None
    share: float | None


def page(data: PageData) -> ui.Page:
    rows = standings(data.database)
    blocks: list[ui.Block] = []
    if data.benchmarks:
        blocks += [ui.Words("Whole models", heading=True), models(data.benchmarks)]
    for device in dict.fromkeys(row.stored.device for row in rows):
        mine = [row for row in rows if row.stored.device == device]
        roof = data.database.read_roof(device)
        blocks.append(ui.Words(f"Kernels on {device.label}", heading=True))
        blocks.append(_problems(mine, data.database))
        shares = [row for row in mine if row.share is not None]
        if shares:
            chart = ui.Bars(
                f"Share of the measured read bandwidth ({roof:,.0f} GB/s), winners on {device.label}",
                ui.Axis("bytes needed ÷ median time ÷ measured read bandwidth", "%"),
                ("winner",),
                tuple((row.name, (100 * (row.share or 0.0),)) for row in shares),
                ((100.0, "measured read bandwidth"),),
            )
            blocks.append(chart)
    question = "Is each shape tuned, how far is it from the roof, and what did tuning bring?"
    return ui.Page("overview", "Overview", question, _answer(rows, data), tuple(blocks))


def standings(database: Database) -> list[Row]:
    """Current winners by device, those nearest to the roof last."""
    names = short_names(w.winner.problem for w in database.winners)
    rows = []
    for stored in database.winners:
        run = database.run_by_id.get(stored.run_id) if stored.run_id is not None else None
        gb_s = run.stored.run.work_bytes / stored.winner.measurement.median_ns if run else None
        roof = database.read_roof(stored.device)
        share = gb_s / roof if gb_s is not None and roof else None
        rows.append(Row(stored, names[stored.winner.problem], gb_s, share))
    return sorted(rows, key=lambda r: (r.stored.device.fingerprint, r.share is None, r.share or 0.0, r.name))


def geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def speed_up(stored: StoredWinner) -> float | None:
    default = stored.winner.default_ns
    return default / stored.winner.measurement.median_ns if default and default == default else None


def _answer(rows: Sequence[Row], data: PageData) -> str:
    if not rows and (runs := len(data.database.runs)):
        return f"{runs} run{'s' if runs > 1 else ''} in Run, and no winner yet: autotune tune MODEL.gguf makes winners."
    if not rows:
        return "Nothing is tuned yet: autotune tune MODEL.gguf fills the database."
    shares = [row for row in rows if row.share is not None]
    parts = []
    if shares:
        near = sum(1 for row in shares if (row.share or 0) >= NEAR)
        least = shares[0] if len({r.stored.device for r in shares}) == 1 else min(shares, key=lambda r: r.share or 0.0)
        parts.append(
            f"{near} of {len(shares)} tuned problems are within 10% of the measured read bandwidth; "
            f"{least.name} is the furthest: {least.share:.0%}."
        )
    ratios = [ratio for row in rows if (ratio := speed_up(row.stored)) is not None]
    if ratios:
        parts.append(f"Winners are {geometric_mean(ratios):.2f}× as fast as the defaults (geometric mean).")
    against = [ratio for one in data.benchmarks if (ratio := one.peer_ratio) is not None]
    if against:
        low, high = min(against), max(against)
        count = f"{len(against)} model{'s' if len(against) > 1 else ''}"
        span = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
        parts.append(f"Decoding {count} is {span} times as fast as the engine each was compared with.")
    return " ".join(parts)


def models(benchmarks: Sequence[BenchmarkFile]) -> ui.Table:
    columns = (
        ui.Column("model"),
        ui.Column("untuned", "decode, tok/s, median", True), ui.Column("tuned", "decode, tok/s, median", True),
        ui.Column("speed-up", "tuned ÷ untuned", True),
        ui.Column("peer", "decode, tok/s, as quoted, the higher if two", True),
        ui.Column("over peer", "tuned ÷ peer", True),
        ui.Column("GB/s", "bytes a token needs × tok/s", True),
        ui.Column("of roof", "GB/s ÷ measured read bandwidth", True),
        ui.Column("kernels", "launched for a token", True), ui.Column("prefill", "tok/s, median", True),
        ui.Column("the peer is"),
    )  # fmt: skip
    rows = []
    for place, one in enumerate(benchmarks):
        result, peer = one.result, one.peer
        tuned, untuned = result.tuned.shallowest, result.untuned.shallowest
        rows.append(
            (
                ui.link(one.model, f"token-{place}"),
                ui.number_cell(untuned.tok_s, 0), ui.number_cell(tuned.tok_s, 0),
                ui.number_cell(tuned.tok_s / untuned.tok_s if untuned.tok_s else None, 2, "×"),
                ui.number_cell(max(peer.decode) if peer else None, 0), ui.number_cell(one.peer_ratio, 2, "×"),
                ui.number_cell(tuned.gb_s, 0), ui.percent_cell(result.share(tuned.gb_s)),
                ui.number_cell(tuned.kernels, 0), ui.number_cell(result.tuned.prefill_tok_s, 0),
                ui.Cell(peer.engine if peer else "–"),
            )
        )  # fmt: skip
    chips = " and ".join(sorted({one.result.chip for one in benchmarks}))
    return ui.Table(f"Decoding at batch 1 from an empty context, and prefill, on {chips}", columns, tuple(rows))


def _problems(rows: Sequence[Row], database: Database) -> ui.Table:
    columns = (
        ui.Column("problem"), ui.Column("time", "median of the winner, µs", True), ui.Column("q10–q90", "µs"),
        ui.Column("default", "median in the same run, µs", True), ui.Column("speed-up", "default ÷ winner", True),
        ui.Column("GB/s", "bytes needed ÷ time", True), ui.Column("of roof", "GB/s ÷ measured read bandwidth", True),
        ui.Column("trials", "evaluated in the winner's run", True),
        ui.Column("failed", "wrong, crashed, timed out or not compiled", True),
        ui.Column("searched", "trials ÷ valid configurations", True),
    )  # fmt: skip
    table = []
    for row in rows:
        measured = row.stored.winner.measurement
        run = database.run_by_id.get(row.stored.run_id) if row.stored.run_id is not None else None
        trials = None if run is None else run.searched
        failed = None if run is None else sum(_failed(t.trial.outcome) for t in run.trials)
        space = run.stored.run.space_size if run else 0
        gain = speed_up(row.stored)
        table.append(
            (
                ui.link(row.name, f"run-{row.stored.run_id}") if run else ui.Cell(row.name),
                ui.micros_cell(measured.median_ns),
                ui.Cell(f"{measured.q10_ns / 1e3:.2f}–{measured.q90_ns / 1e3:.2f}", measured.q90_ns - measured.q10_ns),
                ui.micros_cell(row.stored.winner.default_ns),
                ui.number_cell(gain, 2, "×", "good" if gain and gain >= 1.05 else ""),
                ui.number_cell(row.gb_s, 0), ui.percent_cell(row.share, "good" if (row.share or 0) >= NEAR else ""),
                ui.number_cell(trials, 0), ui.number_cell(failed, 0, "", "bad" if failed else "quiet"),
                ui.percent_cell(trials / space if trials is not None and space else None, "", 1),
            )
        )  # fmt: skip
    return ui.Table("Every problem with a winner", columns, tuple(table))


def _failed(outcome: Outcome) -> bool:
    return outcome not in (Outcome.OK, Outcome.PRUNED)
