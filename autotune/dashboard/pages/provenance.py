"""Where does every number come from: files, tools, devices, clocks, commits?"""

from collections import Counter

from autotune.dashboard.page_data import Facts
from autotune.dashboard.page_elements import Block, Cell, Column, Page, Table, number_cell, texts


def page(facts: Facts) -> Page:
    blocks: list[Block] = [_files(facts)]
    if facts.database.devices:
        blocks.append(_devices(facts))
    if facts.database.runs:
        blocks.append(_software(facts))
    if facts.database.profiles:
        blocks += [_profiles(facts)]
    question = "Where does every number come from?"
    return Page("provenance", "Provenance", question, _answer(facts), tuple(blocks))


def _answer(facts: Facts) -> str:
    files = 1 + (facts.against is not None) + len(facts.benches) + len(facts.database.profiles)
    commits = {run.stored.run.versions.get("commit", "unknown") for run in facts.database.runs}
    partial = sum(profile.provenance.partial for profile in facts.database.profiles)
    text = (
        f"These pages were made from {files} file{'s' if files > 1 else ''}: {len(facts.database.runs)} runs of "
        f"{len(commits)} commit{'' if len(commits) == 1 else 's'} on {len(facts.database.devices)} "
        f"device{'' if len(facts.database.devices) == 1 else 's'}."
    )
    return text + (f" {partial} profile{'s are' if partial > 1 else ' is'} partial." if partial else "")


def _files(facts: Facts) -> Table:
    columns = (Column("file"), Column("what it is"), Column("bytes", "", True), Column("SHA-256"))
    files = [(facts.database.file, f"tuning database, schema {facts.database.schema}")]
    if facts.against is not None:
        files.append((facts.against.file, f"tuning database to compare with, schema {facts.against.schema}"))
    files += [(bench.file, f"benchmark of {bench.document['model']}") for bench in facts.benches]
    rows = [(Cell(file.name), Cell(what), number_cell(file.size_bytes, 0), Cell(file.sha256)) for file, what in files]
    for profile in facts.database.profiles:
        origin = profile.provenance
        what = f"{origin.tool} profile, {origin.format}"
        rows.append((Cell(origin.file), Cell(what), number_cell(origin.size_bytes, 0), Cell(origin.sha256)))
    return Table("Files", columns, tuple(rows))


def _devices(facts: Facts) -> Table:
    columns = (
        Column("device"), Column("fingerprint"), Column("capability"), 
        Column("units", "cores or multiprocessors", True), Column("memory", "GB", True),
        Column("software"), Column("measured roofs", "autotune devices"),
    )  # fmt: skip
    rows = []
    for found in facts.database.devices:
        device = found.device
        roofs = ", ".join(f"{name} {value:,.1f}" for name, value in sorted(found.ceilings.items())) or "–"
        software = ", ".join(f"{name} {version}" for name, version in device.versions)
        rows.append(
            (
                *texts((device.chip, device.fingerprint, device.capability)), number_cell(device.units, 0),
                number_cell(device.memory_bytes / 1e9, 1), *texts((software, roofs)),
            )
        )  # fmt: skip
    return Table("Devices", columns, tuple(rows))


def _software(facts: Facts) -> Table:
    """Runs by what they were made with."""
    made = Counter(tuple(sorted(run.stored.run.versions.items())) for run in facts.database.runs)
    columns = (Column("commit"), Column("other software"), Column("runs", "", True))
    rows = []
    for versions, count in sorted(made.items()):
        rest = ", ".join(f"{name} {version}" for name, version in versions if name != "commit")
        rows.append((Cell(dict(versions).get("commit", "unknown")), Cell(rest), number_cell(count, 0)))
    return Table("What the runs were made with", columns, tuple(rows))


def _profiles(facts: Facts) -> Table:
    columns = (
        Column("file"), Column("tool"), Column("chip"), Column("clocks", "while it was recorded, MHz"),
        Column("recorded"), Column("rows", "found", True), Column("expected", "as the file says", True),
        Column("complete"), Column("note"),
    )  # fmt: skip
    rows = []
    for profile in facts.database.profiles:
        origin = profile.provenance
        clocks = ", ".join(f"{name} {hz / 1e6:,.0f}" for name, hz in sorted(origin.clocks.items())) or "–"
        whole = Cell("partial", None, None, "bad") if origin.partial else Cell("yes")
        rows.append(
            (
                *texts((origin.file, f"{origin.tool} {origin.tool_version}".strip(), origin.chip or "–", clocks)),
                Cell((origin.recorded_at or "unknown")[:19]), number_cell(origin.found, 0),
                number_cell(origin.expected, 0), whole, Cell(origin.note),
            )
        )  # fmt: skip
    return Table("Profiles", columns, tuple(rows))
