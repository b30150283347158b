"""The page "Provenance": files, tools, devices, clocks and commits behind the numbers."""

from collections import Counter

from autotune.dashboard import page_elements as ui
from autotune.dashboard.page_data import PageData


def page(data: PageData) -> ui.Page:
    blocks: list[ui.Block] = [_files(data)]
    if data.database.devices:
        blocks.append(_devices(data))
    if data.database.runs:
        blocks.append(_software(data))
    if data.database.profiles:
        blocks += [_profiles(data)]
    question = "Where does every number come from?"
    return ui.Page("provenance", "Provenance", question, _answer(data), tuple(blocks))


def _answer(data: PageData) -> str:
    files = 1 + (data.against is not None) + len(data.benchmarks) + len(data.precisions) + len(data.database.profiles)
    commits = {run.stored.run.versions.get("commit", "unknown") for run in data.database.runs}
    partial = sum(profile.provenance.partial for profile in data.database.profiles)
    text = (
        f"These pages were made from {files} file{'s' if files > 1 else ''}: {len(data.database.runs)} runs of "
        f"{len(commits)} commit{'' if len(commits) == 1 else 's'} on {len(data.database.devices)} "
        f"device{'' if len(data.database.devices) == 1 else 's'}."
    )
    return text + (f" {partial} profile{'s are' if partial > 1 else ' is'} partial." if partial else "")


def _files(data: PageData) -> ui.Table:
    columns = (ui.Column("file"), ui.Column("what it is"), ui.Column("bytes", "", True), ui.Column("SHA-256"))
    files = [(data.database.file, f"tuning database, schema {data.database.schema}")]
    if data.against is not None:
        files.append((data.against.file, f"tuning database to compare with, schema {data.against.schema}"))
    files += [(one.file, f"benchmark of {one.result.model}") for one in data.benchmarks]
    files += [(one.file, f"precision of {one.result.model}") for one in data.precisions]
    rows = [
        (ui.Cell(file.name), ui.Cell(what), ui.number_cell(file.size_bytes, 0), ui.Cell(file.sha256))
        for file, what in files
    ]
    for profile in data.database.profiles:
        origin = profile.provenance
        what = f"{origin.tool} profile, {origin.format}"
        rows.append((ui.Cell(origin.file), ui.Cell(what), ui.number_cell(origin.size_bytes, 0), ui.Cell(origin.sha256)))
    return ui.Table("Files", columns, tuple(rows))


def _devices(data: PageData) -> ui.Table:
    columns = (
        ui.Column("device"), ui.Column("fingerprint"), ui.Column("capability"), 
        ui.Column("units", "cores or multiprocessors", True), ui.Column("memory", "GB", True),
        ui.Column("software"), ui.Column("measured roofs", "autotune devices"),
    )  # fmt: skip
    rows = []
    for found in data.database.devices:
        device = found.device
        roofs = ", ".join(f"{name} {value:,.1f}" for name, value in sorted(found.ceilings.items())) or "–"
        software = ", ".join(f"{name} {version}" for name, version in device.versions)
        rows.append(
            (
                *ui.texts((device.chip, device.fingerprint, device.capability)), ui.number_cell(device.units, 0),
                ui.number_cell(device.memory_bytes / 1e9, 1), *ui.texts((software, roofs)),
            )
        )  # fmt: skip
    return ui.Table("Devices", columns, tuple(rows))


def _software(data: PageData) -> ui.Table:
    """Runs by what they were made with."""
    made = Counter(tuple(sorted(run.stored.run.versions.items())) for run in data.database.runs)
    columns = (ui.Column("commit"), ui.Column("other software"), ui.Column("runs", "", True))
    rows = []
    for versions, count in sorted(made.items()):
        rest = ", ".join(f"{name} {version}" for name, version in versions if name != "commit")
        rows.append((ui.Cell(dict(versions).get("commit", "unknown")), ui.Cell(rest), ui.number_cell(count, 0)))
    return ui.Table("What the runs were made with", columns, tuple(rows))


def _profiles(data: PageData) -> ui.Table:
    columns = (
        ui.Column("file"), ui.Column("tool"), ui.Column("chip"), ui.Column("clocks", "while it was recorded, MHz"),
        ui.Column("recorded"), ui.Column("rows", "found", True), ui.Column("expected", "as the file says", True),
        ui.Column("complete"), ui.Column("note"),
    )  # fmt: skip
    rows = []
    for profile in data.database.profiles:
        origin = profile.provenance
        clocks = ", ".join(f"{name} {hz / 1e6:,.0f}" for name, hz in sorted(origin.clocks.items())) or "–"
        whole = ui.Cell("partial", None, None, "bad") if origin.partial else ui.Cell("yes")
        rows.append(
            (
                *ui.texts((origin.file, f"{origin.tool} {origin.tool_version}".strip(), origin.chip or "–", clocks)),
                ui.Cell((origin.recorded_at or "unknown")[:19]), ui.number_cell(origin.found, 0),
                ui.number_cell(origin.expected, 0), whole, ui.Cell(origin.note),
            )
        )  # fmt: skip
    return ui.Table("Profiles", columns, tuple(rows))
