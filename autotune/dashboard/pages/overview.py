"""Is each shape tuned, how far is it from the roof, and what did tuning bring?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune.dashboard.page_data import Bench, Database, Facts
from autotune.dashboard.page_elements import (
    Axis,
    Bars,
    Block,
    Cell,
    Column,
    Page,
    Table,
    Words,
    link,
    micros_cell,
    number_cell,
    percent_cell,
)  # fmt: skip
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


def page(facts: Facts) -> Page:
    rows = standings(facts.database)
    blocks: list[Block] = []
    if facts.benches:
        blocks += [Words("Whole models", heading=True), models(facts.benches)]
    for device in dict.fromkeys(row.stored.device for row in rows):
        mine = [row for row in rows if row.stored.device == device]
        roof = facts.database.read_roof(device)
        blocks.append(Words(f"Kernels on {device.chip}", heading=True))
        blocks.append(_problems(mine, facts.database))
        shares = [row for row in mine if row.share is not None]
        if shares:
            chart = Bars(
                f"Share of the measured read bandwidth ({roof:,.0f} GB/s), winners on {device.chip}",
                Axis("bytes needed ÷ median time ÷ measured read bandwidth", "%"),
                ("winner",),
                tuple((row.name, (100 * (row.share or 0.0),)) for row in shares),
                ((100.0, "measured read bandwidth"),),
            )
            blocks.append(chart)
    question = "Is each shape tuned, how far is it from the roof, and what did tuning bring?"
    return Page("overview", "Overview", question, _answer(rows, facts), tuple(blocks))


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


def _answer(rows: Sequence[Row], facts: Facts) -> str:
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
    against = [ratio for bench in facts.benches if (ratio := peer_ratio(bench)) is not None]
    if against:
        low, high = min(against), max(against)
        count = f"{len(against)} model{'s' if len(against) > 1 else ''}"
        span = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
        parts.append(f"Decoding {count} is {span} times as fast as the engine each was compared with.")
    return " ".join(parts)


def first_decode(side: Mapping) -> Mapping:
    """The row of the smallest depth."""
    return side["decode"][min(side["decode"], key=lambda depth: (len(depth), depth))]


def peer_ratio(bench: Bench) -> float | None:
    if bench.marks is None:
        return None
    return first_decode(bench.document["tuned"])["tok_s"] / max(bench.marks["decode"])


def models(benches: Sequence[Bench]) -> Table:
    columns = (
        Column("model"),
        Column("untuned", "decode, tok/s, median", True), Column("tuned", "decode, tok/s, median", True),
        Column("speed-up", "tuned ÷ untuned", True),
        Column("peer", "decode, tok/s, as quoted, the higher if two", True),
        Column("over peer", "tuned ÷ peer", True),
        Column("GB/s", "bytes a token needs × tok/s", True),
        Column("of roof", "GB/s ÷ measured read bandwidth", True),
        Column("kernels", "launched for a token", True), Column("prefill", "tok/s, median", True),
        Column("the peer is"),
    )  # fmt: skip
    rows = []
    for place, bench in enumerate(benches):
        document, marks = bench.document, bench.marks
        tuned, untuned = first_decode(document["tuned"]), first_decode(document["untuned"])
        rows.append(
            (
                link(document["model"].removesuffix(".gguf"), f"token-{place}"),
                number_cell(untuned["tok_s"], 0), number_cell(tuned["tok_s"], 0),
                number_cell(tuned["tok_s"] / untuned["tok_s"], 2, "×"),
                number_cell(max(marks["decode"]) if marks else None, 0),
                number_cell(peer_ratio(bench), 2, "×"),
                number_cell(tuned["gb_s"], 0), percent_cell(tuned["share"]),
                number_cell(tuned["kernels_per_token"], 0), number_cell(document["tuned"]["prefill_tok_s"], 0),
                Cell(marks["engine"] if marks else "–"),
            )
        )  # fmt: skip
    chips = " and ".join(sorted({bench.document["device"]["chip"] for bench in benches}))
    return Table(f"Decoding at batch 1 from an empty context, and prefill, on {chips}", columns, tuple(rows))


def _problems(rows: Sequence[Row], database: Database) -> Table:
    columns = (
        Column("problem"), Column("time", "median of the winner, µs", True), Column("q10–q90", "µs"),
        Column("default", "median in the same run, µs", True), Column("speed-up", "default ÷ winner", True),
        Column("GB/s", "bytes needed ÷ time", True), Column("of roof", "GB/s ÷ measured read bandwidth", True),
        Column("trials", "evaluated in the winner's run", True),
        Column("failed", "wrong, crashed, timed out or not compiled", True),
        Column("searched", "trials ÷ valid configurations", True),
    )  # fmt: skip
    table = []
    for row in rows:
        measured = row.stored.winner.measurement
        run = database.run_by_id.get(row.stored.run_id) if row.stored.run_id is not None else None
        trials = None if run is None else len(run.trials)
        failed = None if run is None else sum(_failed(t.trial.outcome) for t in run.trials)
        space = run.stored.run.space_size if run else 0
        gain = speed_up(row.stored)
        table.append(
            (
                link(row.name, f"run-{row.stored.run_id}") if run else Cell(row.name), micros_cell(measured.median_ns),
                Cell(f"{measured.q10_ns / 1e3:.2f}–{measured.q90_ns / 1e3:.2f}", measured.q90_ns - measured.q10_ns),
                micros_cell(row.stored.winner.default_ns),
                number_cell(gain, 2, "×", "good" if gain and gain >= 1.05 else ""),
                number_cell(row.gb_s, 0), percent_cell(row.share, "good" if (row.share or 0) >= NEAR else ""),
                number_cell(trials, 0), number_cell(failed, 0, "", "bad" if failed else "quiet"),
                percent_cell(trials / space if trials is not None and space else None, "", 1),
            )
        )  # fmt: skip
    return Table("Every problem with a winner", columns, tuple(table))


def _failed(outcome: Outcome) -> bool:
    return outcome not in (Outcome.OK, Outcome.PRUNED)
