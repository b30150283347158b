"""What the pages say: every chart has its table, every number its unit, every answer its sentence."""

import json
import subprocess
import sys
from collections.abc import Iterator

import dashboard_samples as samples
import pytest

from autotune.dashboard.collect import collect
from autotune.dashboard.page_elements import XY, Bars, Spans, Table
from autotune.dashboard.pages import pages
from autotune.dashboard.text_packing import packed, unpacked
from autotune.dashboard.timeline import of_profile, perfetto, timelines

# Counts, whose name is all there is to say, and numbers whose unit another column of the same row names.
COUNTS = {
    "run", "trial", "trials", "launches", "problems", "rows", "value", "bytes", "runs", "tokens before", "bar",
    "median time (µs)", "x", "wall time since the start (s)",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(small_db, other_db, bench_file, precision_file):
    return collect(small_db, other_db, [bench_file], [precision_file])


@pytest.fixture(scope="module")
def made(data):
    return pages(data)


def blocks(made) -> Iterator[tuple[str, tuple]]:
    for page in made:
        yield page.id, page.blocks
        yield from ((detail.id, detail.blocks) for detail in page.details)


def test_every_page_answers_its_question(made):
    assert [page.title for page in made] == [
        "Overview", "Reports", "Systems", "Run", "Parameters", "Kernel", "Roofline", "Source", "Tables", "Token",
        "Precision", "Compare", "Provenance",
    ]  # fmt: skip
    for page in made:
        assert page.question.endswith("?") and page.answer.endswith(".") and len(page.answer) > 40, page.id
        assert any(character.isdigit() for character in page.answer), page.answer


def test_every_chart_has_a_table_with_all_its_values(made):
    charts = 0
    for where, found in blocks(made):
        tables = {block.caption: block for block in found if isinstance(block, Table)}
        for chart in found:
            if not isinstance(chart, XY | Bars | Spans):
                continue
            charts += 1
            table = tables[chart.twin] if chart.twin else chart.table()
            shown = {cell.text for row in table.rows for cell in row}
            if isinstance(chart, XY) and not chart.twin:
                assert len(table.rows) == sum(len(series.points) for series in chart.series), where
            elif isinstance(chart, Bars):
                assert {label for label, _ in chart.rows} <= shown, where
            elif isinstance(chart, Spans):
                assert len(table.rows) == sum(len(spans) for _, spans in chart.rows)
            else:
                dots = next(series for series in chart.series if series.kind == "dots")
                assert {text.split(": ")[1].removesuffix(" µs") for _, _, text in dots.points} <= shown, where
    assert charts > 15


def test_every_number_says_its_unit_or_its_formula(made):
    silent = []
    for where, found in blocks(made):
        for block in found:
            table = (
                block if isinstance(block, Table) else block.table() if isinstance(block, XY | Bars | Spans) else None
            )
            for column in table.columns if table else ():
                if column.numeric and not column.about and "(" not in column.name and column.name not in COUNTS:
                    silent.append((where, column.name))
    assert silent == []


def test_a_kernel_is_described_by_its_counters(data, made):
    entry = data.profiled[0]
    detail = next(page for page in made if page.id == "kernel").details[0]
    counters = next(block for block in detail.blocks if isinstance(block, Table))
    by_metric = {row[3].text: row[1].value for row in counters.rows}
    for name in ("gpu__time_duration.sum", "dram__bytes_read.sum", "launch__occupancy_limit_registers"):
        assert by_metric[name] == pytest.approx(entry.launch.metrics.number(name))
    read, needed = (entry.launch.metrics.number(n) for n in ("dram__bytes_read.sum", "autotune__bytes_needed"))
    assert by_metric["dram__bytes_read.sum ÷ needed"] == pytest.approx(read / needed)


def test_provenance_names_every_file(data, made):
    shown = {cell.text for block in made[-1].blocks for row in block.rows for cell in row}
    for file in (data.database.file, data.against.file, data.benchmarks[0].file, data.precisions[0].file):
        assert file.sha256 in shown
    for profile in data.database.profiles:
        assert {profile.provenance.sha256, profile.provenance.file} <= shown
    assert "partial" in shown  # the timeline: 40 of 50 rows


def test_an_empty_database_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "none.db"))
    for page in pages(collect(None)):
        assert page.answer.endswith(".") and not page.details, page.id


def test_the_same_files_give_the_same_bytes(small_db, other_db, bench_file, precision_file, small_page):
    code = "import sys; from pathlib import Path; from autotune.dashboard import build; "
    code += "a, b, c, d = map(Path, sys.argv[1:]); "
    code += "sys.stdout.buffer.write(build.html(a, b, [c], [d]).encode())"
    command = [sys.executable, "-c", code, small_db, other_db, bench_file, precision_file]
    again = subprocess.run(command, capture_output=True, env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(sys.path)})
    assert again.stdout == small_page.read_bytes(), again.stderr.decode()[-500:]


def test_packing_gives_back_what_it_was_given():
    html = '<table><tr><td class="n">1</td><td class="n">2</td></tr>\n<tr><td>ü\x01\x1f</td></tr></table>'
    clean = html.replace("\x01", "\ufffd").replace("\x1f", "\ufffd")
    assert unpacked(packed([html, "", html])) == [clean, "", clean]


def test_gaps_are_what_no_kernel_covers():
    found = of_profile(samples.timeline())
    assert found.length == pytest.approx(40 * 2 + 39) and found.gaps == pytest.approx(39)


def test_perfetto_has_every_kernel_once(small_db, bench_file):
    trace = json.loads(perfetto(timelines(collect(small_db, None, [bench_file], traced=True))))
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    recorded = [event for event in events if event["pid"] == 1]
    assert len(recorded) == 40 and sum(event["dur"] for event in recorded) == pytest.approx(80)
    assert [e["name"] for e in events if e["pid"] == 3] == ["qkv", "attention", "head", "pick"]
    assert recorded[0]["args"]["range"] == "decode step"
