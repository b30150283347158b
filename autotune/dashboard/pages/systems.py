"""The page "Systems": what GPUs did over time: kernels, copies, fills, NVTX ranges, and idle time by cause."""

from collections.abc import Sequence

import numpy as np

from autotune.dashboard import page_elements as ui
from autotune.dashboard.human_units import human, human_cell
from autotune.dashboard.kernel_names import short_names
from autotune.dashboard.page_data import PageData
from autotune.dashboard.trace_packing import PackedTrace, pack
from autotune.profiling.nvtx_tree import RangeNode, range_tree
from autotune.profiling.trace_idle import CAUSES, without_kernel
from autotune.profiling.trace_time import TimeShares, shares
from tuning_db.profile_records import Profile, RowKind
from tuning_db.trace_records import KINDS, UNKNOWN, Trace

MOST_NAMES, MOST_RANGES = 300, 500  # rows of a table; the others are summed up
INDENT = "\u2003"


def page(data: PageData) -> ui.Page:
    found = [
        (place, profile, trace)
        for place, (profile, trace) in enumerate(zip(data.database.profiles, data.database.traces, strict=True))
        if len(trace)
    ]
    question = "What did each GPU do when: kernels, copies, fills, and nothing, and why?"
    if not found:
        answer = "No trace was imported: nsys export --type sqlite makes one that autotune import reads."
        return ui.Page("systems", "Systems", question, answer, ())
    packs, details = {}, []
    for place, profile, trace in found:
        packed = pack(trace)
        packs[f"trace-{place}"] = packed.content
        details.append(_detail(place, profile, trace, packed))
    answer = _answer(found)
    return ui.Page("systems", "Systems", question, answer, (), "trace", tuple(details), packs, wide=True)


def _answer(found: Sequence[tuple[int, Profile, Trace]]) -> str:
    """Of the longest trace."""
    _, profile, trace = max(found, key=lambda entry: shares(entry[2]).span_ns)
    total = shares(trace)
    devices = sorted(set(trace.device.tolist()))
    text = f"{profile.provenance.file} spans {human(total.span_ns, 'ns')} on {len(devices)} "
    text += f"GPU{'s' if len(devices) > 1 else ''}: {_shares_in_words(total)}."
    parts = []
    for device in devices:
        spans = without_kernel(trace, device)
        for place, cause in enumerate(CAUSES):
            parts.append((spans.total_ns(place), _gpu(trace, device), cause.text))
    most, gpu, why = max(parts)
    return text + (f" Most of the time without a kernel, {human(most, 'ns')} of {gpu}: {why}." if most else "")


def _shares_in_words(found: TimeShares) -> str:
    span = max(found.span_ns, 1)
    return (
        f"kernels in {found.kernels_ns / span:.1%} of it, copies alone in {found.copies_ns / span:.1%}, fills alone in "
        f"{found.fills_ns / span:.1%}, nothing in {found.idle_ns / span:.1%}"
    )


def _gpu(trace: Trace, device: int) -> str:
    if device == UNKNOWN:
        return "the GPU"
    name = trace.devices.get(device, "")
    return f"GPU {device}" + (f" ({name})" if name else "")


def _detail(place: int, profile: Profile, trace: Trace, packed: PackedTrace) -> ui.Detail:
    total = shares(trace)
    words = f"{profile.provenance.file}: {len(trace):,} kernels, copies and fills in {human(total.span_ns, 'ns')}: "
    words += f"{_shares_in_words(total)}."
    if profile.provenance.note:
        words += f" {profile.provenance.note[:1].upper()}{profile.provenance.note[1:]}."
    if packed.left_out:
        words += (
            f" {packed.left_out:,} events overlap too many others to have a row in the picture; the tables have them."
        )
    title = f"{profile.provenance.file} over time"
    view = ui.TraceView(title, f"trace-{place}", "The tables below have its sums", len(packed.rows), packed.legend)
    blocks: list[ui.Block] = [ui.Words(words), view, _devices(trace), _causes(trace), _names(trace), _moved(trace)]
    tree = range_tree(trace)
    blocks += [_ranges(tree, trace)] if tree else []
    blocks.append(packed.table("Rows of the picture"))
    return ui.Detail(f"systems-{place}", f"{place + 1} · {profile.provenance.file}", tuple(blocks))


def _devices(trace: Trace) -> ui.Table:
    columns = (
        ui.Column("GPU"), ui.Column("streams", "in use", True), ui.Column("span", "first start to last end", True),
        ui.Column("kernels", "while one ran", True), ui.Column("copies", "while one ran, and no kernel", True),
        ui.Column("fills", "while one ran, and neither", True), ui.Column("idle", "nothing ran", True),
        ui.Column("idle share", "of the span", True), ui.Column("launches", "kernels and graphs", True),
    )  # fmt: skip
    rows = []
    for device in sorted(set(trace.device.tolist())):
        mine = trace.device == device
        found = shares(trace, device)
        launches = int((mine & np.isin(trace.kind, [KINDS.index(RowKind.KERNEL), KINDS.index(RowKind.GRAPH)])).sum())
        streams = len(np.unique(np.stack([trace.process[mine], trace.stream[mine]]), axis=1).T)
        rows.append(
            (
                ui.Cell(_gpu(trace, device)), ui.number_cell(streams, 0),
                *(human_cell(value, "ns") for value in
                  (found.span_ns, found.kernels_ns, found.copies_ns, found.fills_ns, found.idle_ns)),
                ui.percent_cell(found.idle, "", 1), ui.number_cell(launches, 0),
            )
        )  # fmt: skip
    return ui.Table("The time of each GPU", columns, tuple(rows))


def _causes(trace: Trace) -> ui.Table:
    columns = (
        ui.Column("GPU"), ui.Column("why no kernel ran", "", False, True), ui.Column("time", "in all", True),
        ui.Column("share", "of the GPU's span", True), ui.Column("times", "how often", True),
        ui.Column("longest", "at once", True),
    )  # fmt: skip
    rows = []
    for device in sorted(set(trace.device.tolist())):
        spans, span = without_kernel(trace, device), shares(trace, device).span_ns
        for place, cause in enumerate(CAUSES):
            mine = spans.cause == place
            if mine.any():
                longest = int((spans.end_ns[mine] - spans.start_ns[mine]).max())
                time = spans.total_ns(place)
                rows.append(
                    (
                        ui.Cell(_gpu(trace, device)), ui.Cell(cause.text), human_cell(time, "ns"),
                        ui.percent_cell(time / span if span else None, "", 1), ui.number_cell(int(mine.sum()), 0),
                        human_cell(longest, "ns"),
                    )
                )  # fmt: skip
    return ui.Table("Time without a kernel, by cause", columns, tuple(rows))


def _names(trace: Trace) -> ui.Table:
    """Kernels, copies and fills by name."""
    columns = (
        ui.Column("what", "", False, True), ui.Column("count", "launches", True),
        ui.Column("time", "sum of lengths", True), ui.Column("share", "of the sum of all", True),
        ui.Column("each", "time ÷ count", True), ui.Column("shortest", "of one", True),
        ui.Column("longest", "of one", True), ui.Column("full name", "", False, True),
    )  # fmt: skip
    size = len(trace.names)
    count = np.bincount(trace.name, minlength=size)
    time = np.zeros(size, np.int64)
    np.add.at(time, trace.name, trace.duration_ns)
    least, most = np.full(size, np.iinfo(np.int64).max), np.zeros(size, np.int64)
    np.minimum.at(least, trace.name, trace.duration_ns)
    np.maximum.at(most, trace.name, trace.duration_ns)
    total, short = int(time.sum()), short_names(trace.names)
    order = sorted(range(size), key=lambda place: (-int(time[place]), trace.names[place]))
    rows = []
    for place in order[:MOST_NAMES]:
        name, spent, often = trace.names[place], int(time[place]), int(count[place])
        rows.append(
            (
                ui.Cell(short[name], None, None, "", name), ui.number_cell(often, 0), human_cell(spent, "ns"),
                ui.percent_cell(spent / total if total else None, "", 1), human_cell(spent / often, "ns"),
                human_cell(int(least[place]), "ns"), human_cell(int(most[place]), "ns"),
                ui.Cell(name if name != short[name] else "the same"),
            )
        )  # fmt: skip
    caption = "Kernels, copies and fills by name"
    if size > MOST_NAMES:
        rest = sum(int(time[place]) for place in order[MOST_NAMES:])
        caption += f": the first {MOST_NAMES} of {size:,}; the others took {human(rest, 'ns')}"
    return ui.Table(caption, columns, tuple(rows))


def _moved(trace: Trace) -> ui.Table:
    """Copies by direction, and fills."""
    columns = (
        ui.Column("what"), ui.Column("count", "operations", True), ui.Column("time", "sum of lengths", True),
        ui.Column("moved", "sum of sizes, of those with a size", True), ui.Column("rate", "moved ÷ their time", True),
    )  # fmt: skip
    copies, fills = trace.kind == KINDS.index(RowKind.COPY), trace.kind == KINDS.index(RowKind.FILL)
    kinds = [(f"copies {way}", copies & (trace.direction == n)) for n, way in enumerate(trace.directions)]
    kinds += [("copies, direction unknown", copies & (trace.direction == UNKNOWN)), ("fills", fills)]
    rows = []
    for name, mine in kinds:
        if not mine.any():
            continue
        sized = mine & (trace.bytes != UNKNOWN)
        moved = int(trace.bytes[sized].sum()) if sized.any() else None
        time = int(trace.duration_ns[sized].sum())
        rows.append(
            (
                ui.Cell(name), ui.number_cell(int(mine.sum()), 0), human_cell(int(trace.duration_ns[mine].sum()), "ns"),
                human_cell(moved, "byte"), human_cell(moved / time * 1e9 if moved is not None and time else None,
                                                      "byte/s"),
            )
        )  # fmt: skip
    return ui.Table("Copies and fills", columns, tuple(rows))


def _ranges(tree: Sequence[RangeNode], trace: Trace) -> ui.Table:
    columns = (
        ui.Column("range", "NVTX, those inside indented", False, True), ui.Column("count", "ranges", True),
        ui.Column("GPU time", "sum of what was launched in it", True),
        ui.Column("share", "of the sum of all", True), ui.Column("wall time", "sum of their lengths on the host", True),
        ui.Column("launches", "in it and inside", True), ui.Column("directly", "launches in no range inside", True),
    )  # fmt: skip
    total = int(trace.duration_ns.sum())
    shown = tree
    caption = "NVTX ranges with their GPU time"
    if len(tree) > MOST_RANGES:
        least = sorted((node.gpu_ns for node in tree), reverse=True)[MOST_RANGES - 1]
        # A range has no less time than one inside it: what is kept is a tree again.
        shown = [node for node in tree if node.gpu_ns >= max(least, 1)][: 2 * MOST_RANGES]
        caption += f": the {len(shown):,} of {len(tree):,} with most"
    rows = [
        (
            ui.Cell(INDENT * node.depth + node.name, None, None, "", " / ".join(node.path)),
            ui.number_cell(node.count, 0), human_cell(node.gpu_ns, "ns"),
            ui.percent_cell(node.gpu_ns / total if total else None, "", 1), human_cell(node.wall_ns, "ns"),
            ui.number_cell(node.launched, 0), ui.number_cell(node.own, 0),
        )
        for node in shown
    ]  # fmt: skip
    outside = trace.range == UNKNOWN
    if outside.any():
        time = int(trace.duration_ns[outside].sum())
        rows.append(
            (
                ui.Cell("(in no range)", None, None, "quiet"), ui.number_cell(None), human_cell(time, "ns"),
                ui.percent_cell(time / total if total else None, "", 1), ui.number_cell(None),
                ui.number_cell(int(outside.sum()), 0), ui.number_cell(int(outside.sum()), 0),
            )
        )  # fmt: skip
    return ui.Table(caption, columns, tuple(rows))
