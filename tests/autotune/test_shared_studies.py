"""Workers that tune the same problems through one study, bringing winners home, and passwords that stay secret."""

import json
import sys

import fake_gpu
import pytest
from fake_gpu import DEVICE, Part

from autotune.commands import tune_devices
from autotune.samplers.study import Search
from autotune.tuning import shared_studies, storage_url, tune_model
from autotune.tuning.tuner_base import TuneSettings
from kernel_templates.device import Device
from tuning_db import open_db
from tuning_db.records import Objective, Source

PROBLEMS = {Part("out", 64): 1}
TRIALS = 6
SECRET = "h&ll0/w@rld"
URL = "postgresql://ann:h%26ll0%2Fw%40rld@127.0.0.1:1/tuning"


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FAKE_CACHE", str(tmp_path))
    fake_gpu.install(monkeypatch)


def tune(path, url, trials, device=DEVICE):
    """One worker from beginning to end; its results."""
    with open_db(path) as db, shared_studies.opened(url) as server:
        settings = TuneSettings(trials, sampler="exhaustive", studies=server)
        alone, _ = tune_model.tune(PROBLEMS, [], db, fake_gpu.target(device), settings)
        return alone


def test_workers_share_what_they_try_and_pull_brings_it_home(tmp_path, autotune) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    first = tune(tmp_path / "a.db", url, TRIALS)
    second = tune(tmp_path / "b.db", url, TRIALS)  # nothing is left but to prove here what won there
    assert [t.config for t in second] == [t.config for t in first]
    assert all(tuned.trials <= 3 for tuned in second)
    tune(tmp_path / "c.db", url, 2, Device("cuda", "Other 200", "9.0", 132, 96 << 30))  # another chip: its own study
    with shared_studies.opened(url) as server:
        names = [study.study_name for study in server.shared.studies()]
        assert len(names) == 2 * len(PROBLEMS) and sum("Other 200" in name for name in names) == len(PROBLEMS)
        assert all(len(s.get_trials()) == (2 if "Other" in s.study_name else TRIALS) for s in server.shared.studies())
    home = tmp_path / "home.db"
    document = json.loads(autotune("pull", "--storage", url, "--db", home, "--json").stdout)
    assert document["new"]["winners"] == 3 * len(PROBLEMS)
    with open_db(home) as db:
        for tuned in first:
            answer = db.lookup(DEVICE, tuned.problem.key, 1)
            assert answer.source is Source.EXACT and answer.winner.config == tuned.config
            assert answer.winner.error <= answer.winner.tolerance and answer.winner.reference
        before = db.exported()
    assert json.loads(autotune("pull", "--storage", url, "--db", home, "--json").stdout)["new"]["winners"] == 0
    with open_db(home) as db:
        assert db.exported() == before


def test_another_objective_is_another_study(tmp_path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    search = Search(fake_gpu.target(DEVICE).space(Part("out", 64)), "exhaustive", 0)
    with shared_studies.opened(url) as server:
        first = server.join(search, DEVICE, Part("out", 64), None, Objective.TIME)
        first.tell(first.ask(), 1e-6)
        for objective in (Objective.ENERGY, Objective.EDP):
            other = server.join(search, DEVICE, Part("out", 64), None, objective)
            assert other.fastest(9) == [] and len(first.fastest(9)) == 1
        assert len(server.shared.studies()) == 3


def test_a_server_that_is_not_there_is_one_line_without_the_password(complaint, tiny_model, tmp_path) -> None:
    pytest.importorskip("psycopg")
    for words in (("pull",), ("tune", tiny_model)):
        text = complaint(*words, "--storage", URL)
        assert "cannot be used" in text and "postgresql+psycopg://ann:***@127.0.0.1:1/tuning" in text
        assert SECRET not in text and "h%26ll0" not in text
    assert "is no URL" in complaint("pull", "--storage", "no url")
    assert "mysql is not supported" in complaint("pull", "--storage", "mysql://ann:secret@host/db")


def test_passwords_are_scrubbed_however_they_are_written() -> None:
    url = storage_url.parsed(URL)
    said = f"could not connect as ann with {SECRET} to {url} or postgresql://ben:other@host/x"
    text = storage_url.scrubbed(said, url)
    assert SECRET not in text and "h%26ll0" not in text and "other" not in text and "@host/x" in text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann@host/db?password=hunter22&sslmode=require", "postgresql:///db?user=ann&password=hunter22",
        "postgresql://host/db?sslpassword=hunter22", "postgresql://host/db?token=hunter22&password=other",
    ],
)  # fmt: skip
def test_secrets_in_a_query_are_not_shown(url) -> None:
    address = storage_url.parsed(url)
    error = RuntimeError(f'connection to "{address}" with password=hunter22 and hunter22 failed')
    for text in (storage_url.shown(address), str(storage_url.unusable(address, error))):
        assert "hunter22" not in text and "other" not in text and "***" in text
    assert "sslmode=require" in storage_url.shown(storage_url.parsed(url + "&sslmode=require"))


@pytest.mark.parametrize("url", ["hunter@22", "hun@ter/22", "@hunter22", "hunter22@"])
def test_an_at_sign_in_a_password_is_refused_unseen(complaint, url) -> None:
    text = complaint("pull", "--storage", f"postgresql://ann:{url}@127.0.0.1:1/db")
    assert "%40" in text and "22" not in text and "hun" not in text


def test_the_password_gets_into_neither_the_file_nor_the_command_line(tmp_path, monkeypatch) -> None:
    words = tmp_path / "words"
    program = "import os, sys; open(sys.argv[1], 'a').write(f'{sys.argv[2:]} {os.environ[\"AUTOTUNE_STORAGE\"]}\\n')"
    command = (sys.executable, "-c", program, str(words))
    assert tune_devices.run(["cuda:0", "cuda:1"], ["tune", "m.gguf"], URL, command) == 0
    lines = sorted(words.read_text().splitlines())
    assert [line.split(" postgresql")[0] for line in lines] == [
        f"['tune', 'm.gguf', '--device', 'cuda:{n}']" for n in (0, 1)
    ]
    assert all(line.endswith(URL) for line in lines)
    assert tune_devices.run(["cuda:0"], [], URL, (sys.executable, "-c", "raise SystemExit(3)")) == 1


def test_devices_all_without_a_gpu(complaint, tiny_model, monkeypatch) -> None:
    from kernel_templates.cuda import machine

    monkeypatch.setattr(machine, "count", lambda: 0)
    assert "no GPU can be used here" in complaint("tune", tiny_model, "--devices", "all")
