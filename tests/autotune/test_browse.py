"""Datasette and optuna-dashboard open what is there, and show no password."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import shared_worker

from autotune.samplers.shared_search import Shared, SharedSearch
from autotune.samplers.study import Search

pytestmark = pytest.mark.slow


def page(words, port, path):
    """What a program that is started for it serves."""
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                    return answer.read().decode()
            except (urllib.error.URLError, ConnectionError):
                assert running.poll() is None, f"{words} ended"
                time.sleep(0.1)
        raise AssertionError(f"{words} serves nothing")
    finally:
        running.kill()
        running.wait()


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_datasette(filled, port) -> None:
    pytest.importorskip("datasette")
    words = [sys.executable, "-m", "datasette", "serve", str(filled), "-h", "127.0.0.1", "-p", str(port)]
    text = page(words, port, "/filled/v_winners.json?_shape=array")
    assert '"chip": "Xeon"' in text and '"speed_up": 4.0' in text


def test_optuna_dashboard_on_the_database_file(filled, port) -> None:
    pytest.importorskip("optuna_dashboard")
    shared = Shared(url := f"sqlite:///{filled}")
    search = SharedSearch(Search(shared_worker.SPACE, "exhaustive"), shared, "a study", 1)
    search.tell(search.ask(), 1.0)
    shared.close()
    start = f"from optuna_dashboard import run_server; run_server({url!r}, host='127.0.0.1', port={port})"
    assert "a study" in page([sys.executable, "-c", start], port, "/api/studies")
