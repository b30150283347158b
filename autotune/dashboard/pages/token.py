"""Where does a decode step's time go: kernels and gaps, untuned beside tuned?"""

from collections import defaultdict

from autotune.dashboard.page_data import Bench, Facts
from autotune.dashboard.page_elements import (
    Axis,
    Bars,
    Block,
    Cell,
    Column,
    Detail,
    Page,
    Spans,
    Table,
    Words,
    number_cell,
    percent_cell,
)  # fmt: skip
from autotune.dashboard.timeline import Timeline, of_profile

LONGEST = 400  # launches that a chart shows; the table of kernels counts all


def page(facts: Facts) -> Page:
    recorded = [found for profile in facts.database.profiles if (found := of_profile(profile)) is not None]
    details = [_bench(f"token-{place}", bench) for place, bench in enumerate(facts.benches)]
    details += [_recorded(f"token-profile-{place}", timeline) for place, timeline in enumerate(recorded)]
    question = "Where does a decode step's time go: kernels and gaps, untuned beside tuned?"
    return Page("token", "Token", question, _answer(facts, recorded), (), "model or timeline", tuple(details))


def _rows(bench: Bench, side: str) -> dict[str, dict]:
    return {row["kernel"]: row for row in bench.document["operations"][side]}


def _answer(facts: Facts, recorded: list[Timeline]) -> str:
    if not facts.benches and not recorded:
        return "No token was measured: give --bench FILE with what autotune bench --json printed, or import a timeline."
    if not facts.benches:
        first = recorded[0]
        return f"In {first.name} no kernel ran in {first.gaps / first.length:.0%} of {first.length:,.0f} µs."
    sentences = []
    for bench in facts.benches:
        tuned = {name: row for name, row in _rows(bench, "tuned").items() if name != "token"}
        if tuned:
            name, row = max(tuned.items(), key=lambda pair: pair[1]["us"])
            total = sum(r["us"] for r in tuned.values())
            sentences.append(f"{bench.document['model'].removesuffix('.gguf')} {name} ({row['us'] / total:.0%})")
    return (
        f"What takes most of a tuned token's kernel time: {', '.join(sentences)}."
        if sentences
        else "No kernels were timed."
    )


def _bench(id: str, bench: Bench) -> Detail:
    model = bench.document["model"].removesuffix(".gguf")
    untuned, tuned = _rows(bench, "untuned"), _rows(bench, "tuned")
    kernels = [name for name in tuned if name != "token"]
    rows = tuple((n, (untuned[n]["us"] if n in untuned else None, tuned[n]["us"])) for n in kernels)
    blocks: list[Block] = [Words(_sentence(bench, untuned, tuned, kernels))]
    axis = Axis("all launches of a token, captured alone", "µs", zero=True)
    blocks.append(Bars(f"Where a token's time goes, {model}", axis, ("untuned", "tuned"), rows))
    blocks += [_kernels(model, untuned, tuned), _depths(bench)]
    return Detail(id, model, tuple(blocks))


def _sentence(bench: Bench, untuned: dict, tuned: dict, kernels: list[str]) -> str:
    text = f"{bench.document['model']} on {bench.document['device']['chip']}"
    if bench.date:
        text += f", {bench.date}"
    text += f", commit {bench.document.get('versions', {}).get('commit', 'unknown')}."
    if "token" in tuned and "token" in untuned:
        total = sum(tuned[n]["us"] for n in kernels)
        whole, before = tuned["token"]["us"], untuned["token"]["us"]
        hidden = (
            f"{total - whole:,.0f} µs of them are hidden by kernels that overlap"
            if total > whole
            else f"the other {whole - total:,.0f} µs are gaps between kernels"
        )
        text += (
            f" A token takes {whole:,.0f} µs tuned and {before:,.0f} µs untuned ({before / whole:.2f}×). "
            f"Its kernels captured alone add up to {total:,.0f} µs: {hidden}."
        )
    decode = bench.document["tuned"]["decode"]
    first = decode[min(decode, key=lambda depth: (len(depth), depth))]
    if "token" in tuned:
        outside = 1e6 / first["tok_s"] - tuned["token"]["us"]
        text += f" As a user gets it, sampled and read by Python, a token takes {1e6 / first['tok_s']:,.0f} µs"
        text += f", {outside:,.0f} µs more than on the GPU." if outside >= 1 else "."
    return text


def _kernels(model: str, untuned: dict, tuned: dict) -> Table:
    columns = (
        Column("kernel"), Column("launches", "in a token", True),
        Column("untuned", "all launches, µs", True), Column("tuned", "all launches, µs", True),
        Column("speed-up", "untuned ÷ tuned", True), Column("each", "tuned ÷ launches, µs", True),
        Column("MB", "bytes needed", True), Column("GB/s", "bytes needed ÷ tuned time", True),
        Column("of roof", "GB/s ÷ measured read bandwidth", True),
    )  # fmt: skip
    rows = []
    for name, row in tuned.items():
        before = untuned.get(name)
        gain = before["us"] / row["us"] if before and row["us"] else None
        tone = "" if gain is None else "good" if gain >= 1.05 else "bad" if gain <= 0.95 else ""
        size = row["bytes"]
        rows.append(
            (
                Cell(name), number_cell(row["count"], 0), number_cell(before["us"] if before else None, 1),
                number_cell(row["us"], 1), number_cell(gain, 2, "×", tone),
                number_cell(row["us"] / row["count"] if row["count"] else None, 2),
                number_cell(size / 1e6 if size is not None else None, 1), number_cell(row["gb_s"], 0),
                percent_cell(row["share"]),
            )
        )  # fmt: skip
    return Table(f"Kernels of one token, {model}", columns, tuple(rows))


def _depths(bench: Bench) -> Table:
    columns = (
        Column("tokens before", "", True), Column("kernels"), Column("decode", "tok/s, median", True),
        Column("GB/s", "bytes a token needs × tok/s", True), Column("of roof", "GB/s ÷ measured read bandwidth", True),
        Column("launches", "kernels a token", True),
    )  # fmt: skip
    rows = []
    for side in ("untuned", "tuned"):
        for depth, row in bench.document[side]["decode"].items():
            rows.append(
                (
                    Cell(depth, float(depth) if depth.isdigit() else None), Cell(side), number_cell(row["tok_s"], 0),
                    number_cell(row["gb_s"], 0), percent_cell(row["share"]), number_cell(row["kernels_per_token"], 0),
                )
            )  # fmt: skip
    return Table("Decoding after so many tokens", columns, tuple(rows))


def _recorded(id: str, timeline: Timeline) -> Detail:
    blocks: list[Block] = [
        Words(
            f"{timeline.name}: {len(timeline.events):,} launches in {timeline.length:,.1f} µs, "
            f"{timeline.gaps:,.1f} µs of them without any kernel; {timeline.note}."
        )
    ]
    tracks = defaultdict(list)
    shown = sorted(timeline.events, key=lambda e: e.begin)[:LONGEST]
    for event in shown:
        tracks[event.name].append((event.begin, event.end, f"{event.name}: {event.end - event.begin:.2f} µs"))
    part = f", the first {LONGEST} launches" if len(timeline.events) > LONGEST else ""
    blocks.append(
        Spans(f"Kernels in time{part}", Axis("time", "µs", zero=True), tuple((n, tuple(s)) for n, s in tracks.items()))
    )
    by_kernel = defaultdict(list)
    for event in timeline.events:
        by_kernel[event.name].append(event.end - event.begin)
    total = sum(map(sum, by_kernel.values()))
    rows = tuple(
        (
            Cell(name),
            number_cell(len(times), 0),
            number_cell(sum(times), 1),
            percent_cell(sum(times) / total if total else None),
        )
        for name, times in sorted(by_kernel.items(), key=lambda pair: (-sum(pair[1]), pair[0]))
    )
    columns = (
        Column("kernel"),
        Column("launches", "", True),
        Column("time", "sum, µs", True),
        Column("share", "of kernel time", True),
    )
    blocks.append(Table("Kernels", columns, rows))
    return Detail(id, timeline.name, tuple(blocks))
