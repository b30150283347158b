"""The page "Source": source lines beside their machine code, with the stall samples at each."""

from collections import Counter

from autotune.dashboard import page_elements as ui
from autotune.dashboard.page_data import PageData, launch_time
from autotune.dashboard.pages.kernel import label, titles
from autotune.profiling.diagnosis import STALLS
from tuning_db.profile_records import KernelLaunch, Profile, SourceLine

ISSUING = ("selected", "not_selected")  # samples of warps that could issue: they waited for nothing but their turn
AROUND = 3  # lines of source shown around those that machine code came from


def page(data: PageData) -> ui.Page:
    profiled = [(n, one.profile, one.sampled) for n, one in enumerate(data.profiled) if one.sampled.lines]
    named = titles(data.profiled)
    details = tuple(_detail(n, named[n], profile, launch) for n, profile, launch in profiled)
    question = "Which line of which kernel waits, and for what?"
    blocks = (_index(profiled),) if profiled else ()
    return ui.Page(
        "source", "Source", question, _answer([launch for *_, launch in profiled]), blocks, "kernel", details
    )


def _answer(launches: list[KernelLaunch]) -> str:
    if not launches:
        return "No imported report has machine code: ncu --set full --import-source yes records it."
    sampled = [launch for launch in launches if _samples(launch)]
    if not sampled:
        return f"{len(launches)} kernels have machine code, none of them samples of what its warps waited for."
    # Where most time goes: a line may have half of the few samples of a kernel that takes none.
    launch = max(sampled, key=lambda launch: (_hottest(launch)[2] * (launch_time(launch) or 0.0), _samples(launch)))
    where, reason, share = _hottest(launch)
    return f"In {label(launch)} {share:.0%} of the samples are at {where}, mostly waiting for {_in_words(reason)}."


def _in_words(reason: str) -> str:
    return STALLS.get(reason, reason.replace("_", " "))


def _samples(launch: KernelLaunch) -> int:
    return sum(line.samples for line in launch.lines)


def _where(line: SourceLine) -> str:
    return f"{_short(line.file)}:{line.line}" if line.file and line.line else f"instruction {line.address:#x}"


def _short(file: str) -> str:
    """The end of a path: where it lay when it was compiled says nothing here."""
    return "/".join(file.replace("\\", "/").split("/")[-2:])


def _hottest(launch: KernelLaunch) -> tuple[str, str, float]:
    """(line, the reason most waited for there, its share of all samples); of a launch that has samples."""
    at: Counter[str] = Counter()
    for line in launch.lines:
        at[_where(line)] += line.samples
    where, count = min(at.items(), key=lambda pair: (-pair[1], pair[0]))
    reasons: Counter[str] = Counter()
    for line in launch.lines:
        if _where(line) == where:
            reasons.update(line.stalls)
    waits = {reason: n for reason, n in reasons.items() if reason not in ISSUING} or reasons
    return where, min(waits, key=lambda reason: (-waits[reason], reason)), count / _samples(launch)


def _index(profiled: list[tuple[int, Profile, KernelLaunch]]) -> ui.Table:
    columns = (
        ui.Column("kernel"), ui.Column("instructions", "SASS", True),
        ui.Column("samples", "of warps that did not issue", True),
        ui.Column("hottest line"), ui.Column("share", "samples there ÷ all samples", True), ui.Column("waits for"),
        ui.Column("file"),
    )  # fmt: skip
    rows = []
    for place, profile, launch in profiled:
        where, reason, share = _hottest(launch) if _samples(launch) else ("–", "–", None)
        rows.append(
            (
                ui.link(label(launch), f"source-{place}"), ui.number_cell(len(launch.lines), 0),
                ui.number_cell(_samples(launch), 0), ui.Cell(where), ui.percent_cell(share),
                ui.Cell(reason.replace("_", " ")), ui.Cell(profile.provenance.file),
            )
        )  # fmt: skip
    return ui.Table("Every kernel with machine code", columns, tuple(rows))


def _detail(place: int, title: str, profile: Profile, launch: KernelLaunch) -> ui.Detail:
    total = _samples(launch)
    blocks: list[ui.Block] = []
    if total:
        where, reason, share = _hottest(launch)
        blocks.append(
            ui.Words(
                f"{label(launch)}: {share:.0%} of {total:,} samples at {where}, mostly waiting for {_in_words(reason)}."
            )
        )
    else:
        blocks.append(ui.Words(f"{label(launch)}: machine code without samples."))
    blocks.append(
        ui.Words("Choose a line to see what belongs to it. The stronger its colour, the more samples it has.")
    )
    sources = _sources(profile, launch)
    blocks += [*sources[:1], _machine_code(launch), *sources[1:]]  # the hottest file beside the machine code
    if total:
        blocks.append(_reasons(launch, total))
    return ui.Detail(f"source-{place}", title, tuple(blocks))


def _heat(samples: int, most: int) -> int | None:
    return min(9, samples * 10 // most) if samples and most else None


def _reasons(launch: KernelLaunch, total: int) -> ui.Table:
    reasons: Counter[str] = Counter()
    for line in launch.lines:
        reasons.update(line.stalls)
    rows = tuple(
        (ui.Cell(reason.replace("_", " ")), ui.number_cell(count, 0), ui.percent_cell(count / total))
        for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    )
    columns = (
        ui.Column("state"),
        ui.Column("samples", "of the program counter", True),
        ui.Column("share", "of all samples", True),
    )
    return ui.Table("What warps did at the samples", columns, rows)


def _sources(profile: Profile, launch: KernelLaunch) -> list[ui.Listing]:
    """A listing for each file: its lines that machine code came from and those around, if the report has the text."""
    samples: Counter[tuple[str, int]] = Counter()
    notes: dict[tuple[str, int], Counter[str]] = {}
    for line in launch.lines:
        if line.file and line.line:
            samples[line.file, line.line] += line.samples
            notes.setdefault((line.file, line.line), Counter()).update(line.stalls)
    most = max(samples.values(), default=0)
    listings = []
    in_file: Counter[str] = Counter()
    for (file, _), count in samples.items():
        in_file[file] += count
    for file in sorted(in_file, key=lambda file: (-in_file[file], file)):
        text = profile.sources.get(file, "").splitlines()
        used = sorted(number for name, number in samples if name == file)
        shown = sorted(
            {n for u in used for n in range(max(1, u - AROUND), u + AROUND + 1) if n <= len(text)} | set(used)
        )
        rows = []
        for number in shown:
            count = samples[file, number]
            line_text = text[number - 1] if number <= len(text) else "(the report has no source)"
            note = _mostly(notes.get((file, number), Counter()))
            key = f"{file}:{number}" if number in used else ""
            rows.append((str(number), line_text, str(count) if count else "", _heat(count, most), note, key))
        listings.append(ui.Listing(f"Source, {_short(file)}", ("line", "source"), tuple(rows)))
    return listings


def _machine_code(launch: KernelLaunch) -> ui.Listing:
    most = max((line.samples for line in launch.lines), default=0)
    rows, before = [], None
    for line in launch.lines:
        key = f"{line.file}:{line.line}" if line.file and line.line else ""
        ptx = line.ptx if line.ptx != before else None  # said once for all that came from it
        before = line.ptx
        note = " · ".join(part for part in (_mostly(Counter(line.stalls)), ptx) if part)
        heat, count = _heat(line.samples, most), str(line.samples) if line.samples else ""
        rows.append((f"{line.address:04x}", line.sass.strip(), count, heat, note, key))
    return ui.Listing("Machine code (SASS) with the PTX it came from", ("address", "instruction"), tuple(rows))


def _mostly(stalls: Counter[str]) -> str:
    """The two reasons most waited for, with their samples where there are several."""
    found = [(reason.replace("_", " "), count) for reason, count in sorted(stalls.items(), key=lambda p: (-p[1], p[0]))]
    return found[0][0] if len(found) == 1 else ", ".join(f"{reason} {count}" for reason, count in found[:2])
