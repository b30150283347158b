"""`autotune dashboard` and `autotune db plot` as a user calls them."""

import html
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

import pytest
from dashboard_samples import HOSTILE

from autotune import UserError
from autotune.dashboard.collect import read_benchmark


def test_a_page_is_written(autotune, tmp_path, small_db, bench_file):
    target = tmp_path / "page.html"
    result = autotune("dashboard", "-o", target, "--db", small_db, "--bench", bench_file)
    assert result.exit_code == 0 and result.stdout == "" and re.search(r"page.html: 0\.\d+ MB", result.stderr)
    assert target.read_text().startswith("\n<!DOCTYPE html>") or target.read_text().startswith("<!DOCTYPE html>")


def test_perfetto(autotune, tmp_path, small_db):
    target = tmp_path / "token.json"
    assert autotune("dashboard", "--format", "perfetto", "-o", target, "--db", small_db).exit_code == 0
    assert len([e for e in json.loads(target.read_text())["traceEvents"] if e["ph"] == "X"]) == 40


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "either -o FILE or --serve"),
        (("--serve", "-o", "x.html"), "either -o FILE or --serve"),
        (("--serve", "--format", "perfetto"), "give -o FILE instead"),
        (("-o", "x.html", "--bench", "missing.json"), "missing.json"),
        (("-o", "x.html", "--against", "missing.db"), "missing.db"),
        (
            (
                "-o",
                "missing/x.html",
            ),
            "missing/x.html",
        ),
        (("-o", "x.json", "--format", "perfetto", "--db", "{other}"), "nothing has a timeline"),
    ],
)
def test_what_a_user_can_do_wrong_is_one_line(autotune, small_db, other_db, words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word.format(other=other_db) for word in words]
    result = autotune("dashboard", *(["--db", small_db] if "--db" not in words else []), *words)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and says in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"bench": 3}', "[" * 100_000, '{"model": "x", "device": {}}', "\xff\xfe"]
)
def test_another_file_is_no_benchmark(tmp_path, text):
    (tmp_path / "bench.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError):
        read_benchmark(tmp_path / "bench.json")


def test_every_part_of_a_benchmark_is_checked(tmp_path, bench_file):
    """Without any one of its values, or with one of another kind, it is a benchmark still or one line: never a bug."""
    whole = json.loads(bench_file.read_text())
    path, refused = tmp_path / "bench.json", 0

    def places(value, at=()):
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            yield (*at, key)
            yield from places(inner, (*at, key))

    for place in places(whole):
        for other in ("words", None, -1):
            broken = json.loads(bench_file.read_text())
            inner = broken
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = other
            path.write_text(json.dumps(broken))
            try:
                read_benchmark(path)
            except UserError:
                refused += 1
    assert refused > 100


def test_plots(autotune, tmp_path, small_db):
    key = f"matvec:rows=576,cols=1024,format=Q4_0,activation=int16{HOSTILE}"
    drawn = autotune("db", "plot", key, "--db", small_db)
    assert (
        drawn.exit_code == 0
        and "best so far" in drawn.stdout
        and "\x1b" not in drawn.stdout
        and "run 4" in drawn.stdout
    )
    made = []
    for _ in range(2):
        assert autotune("db", "plot", key, "--db", small_db, "-o", tmp_path / "a.svg").exit_code == 0
        made.append((tmp_path / "a.svg").read_bytes())
    assert made[0].startswith(b"<?xml") and made[0] == made[1]
    texts = [element.text for element in ElementTree.fromstring(made[0]).iter("{http://www.w3.org/2000/svg}text")]
    assert {"best so far", "trials that worked", "trial", "median time (µs)"} <= set(texts)
    assert sum("run 4" in text for text in texts) == 1 and b"<circle" in made[0]


def test_without_plotext_it_says_what_to_install(autotune, monkeypatch, small_db):
    monkeypatch.setitem(sys.modules, "plotext", None)
    result = autotune("db", "plot", "matvec:rows=1152", "--db", small_db)
    assert result.exit_code == 2 and "./scripts/setup_env dashboard" in result.stderr


@pytest.mark.parametrize(
    ("problem", "target", "says"),
    [
        ("matvec", "a.svg", "3 problems begin with"),
        ("none", "a.svg", "no trial that worked"),
        ("matvec:rows=576", "a.png", "must end in .svg"),
    ],
)
def test_plots_that_cannot_be(autotune, tmp_path, small_db, problem, target, says):
    result = autotune("db", "plot", problem, "--db", small_db, "-o", tmp_path / target)
    assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1


def test_serving_until_interrupted(small_db):
    command = [sys.executable, "-m", "autotune", "dashboard", "--serve", "--port", "0", "--db", small_db]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": ":".join(sys.path)}
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        url = server.stdout.readline().split()[0]
        before = Path(small_db).read_bytes()
        with urllib.request.urlopen(url, timeout=60) as answer:
            text = answer.read().decode()
        assert '<meta name="live" content="/version">' in text and "connect-src 'self'" in html.unescape(text)
        assert Path(small_db).read_bytes() == before
    finally:
        server.send_signal(signal.SIGINT)
        _, complaint = server.communicate(timeout=30)
    assert server.returncode == 130 and complaint == "autotune: interrupted\n"
