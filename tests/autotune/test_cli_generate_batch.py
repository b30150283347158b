"""`autotune generate --input` on tiny models: what is answered, how a run goes on after any end, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [
    {"prompt": "hello there"},
    {"prompt": "a", "id": "second", "max_tokens": 3, "metadata": {"label": 1}},
    {"prompt": "hello there", "temperature": 1.0, "seed": 7},
    {"messages": [{"role": "user", "content": "hello"}], "id": 4},
    {"prompt": "the quick brown fox", "tokens": 20},
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    return path


def answers(text: str) -> dict[int, dict]:
    """The lines of an output by the index of their prompt, each of which has one."""
    found = [json.loads(line) for line in text.splitlines()]
    by_index = {answer["index"]: answer for answer in found}
    assert len(by_index) == len(found) and (not text or text.endswith("\n"))
    return by_index


def told(answers: dict[int, dict]) -> dict[int, dict]:
    """Without what differs from run to run."""
    return {index: {k: v for k, v in answer.items() if k != "seconds"} for index, answer in answers.items()}


def test_each_prompt_gets_the_text_it_gets_alone(autotune, tiny_model, prompts) -> None:
    result = autotune("generate", tiny_model, "--input", prompts, "-n", "8", "--batch", "2")
    assert result.exit_code == 0, result.stderr
    found = answers(result.stdout)
    assert [found[i].get("id") for i in range(5)] == [None, "second", None, 4, None]
    assert found[1]["metadata"] == {"label": 1} and "metadata" not in found[0]
    for index, words in {
        0: ("-p", "hello there"),
        1: ("-p", "a", "-n", "3"),
        2: ("-p", "hello there", "--temperature", "1", "--seed", "7"),
        3: ("-p", "hello", "--chat"),
        4: ("-p", "the quick brown fox", "-n", "20"),
    }.items():
        alone = json.loads(autotune("generate", tiny_model, "-n", "8", *words, "--json").stdout)
        answer = found[index]
        for name in ("text", "stop_reason", "tokens"):
            assert answer[name] == alone[name], (index, name)
    assert "answered 5 prompts" in result.stderr and "tok/s" in result.stderr and "kernels: " in result.stderr


def test_settings_of_the_command_are_for_prompts_without_their_own(autotune, tiny_model) -> None:
    lines = "".join(json.dumps({"prompt": "hi", **own}) + "\n" for own in ({}, {"seed": 3}, {"temperature": 0}))
    words = ("generate", tiny_model, "--input", "-", "--output", "-", "-n", "9", "--temperature", "1.5", "--seed", "4")
    found = answers(autotune(*words, input=lines).stdout)
    alone = [
        json.loads(autotune("generate", tiny_model, "-p", "hi", "-n", "9", "--json", *own).stdout)["text"]
        for own in (("--temperature", "1.5", "--seed", "4"), ("--temperature", "1.5", "--seed", "3"), ())
    ]
    assert [found[i]["text"] for i in range(3)] == alone and len(set(alone)) == 3


def test_a_cut_output_is_completed(autotune, tiny_model, prompts, tmp_path) -> None:
    out = tmp_path / "out.jsonl"
    words = ("generate", tiny_model, "--input", prompts, "--output", out, "-n", "8")
    first = autotune(*words)
    assert (first.exit_code, first.stdout) == (0, "")
    whole = out.read_bytes()
    wanted = told(answers(whole.decode()))
    again = autotune(*words)
    assert out.read_bytes() == whole and "answered 0 prompts, 5 were answered before" in again.stderr
    for cut in range(0, len(whole), 97):
        out.write_bytes(whole[:cut])
        result = autotune(*words, "--json")
        counts = json.loads(result.stdout)["prompts"]
        assert counts["already"] == whole[:cut].count(b"\n") and counts["already"] + counts["answered"] == 5
        assert told(answers(out.read_text())) == wanted


def test_prompts_may_be_added_and_with_ids_moved(autotune, tiny_model, tmp_path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    words = ("generate", tiny_model, "--input", source, "--output", out, "-n", "3", "--json")

    def answered(*prompts: dict) -> int:
        source.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
        return json.loads(autotune(*words).stdout)["prompts"]["answered"]

    a, b, c = ({"prompt": name, "id": name} for name in "abc")
    assert answered(a, b) == 2
    assert answered(c, b, a) == 1
    assert answered(c, b, a, {"prompt": "new"}) == 1
    assert len(out.read_text().splitlines()) == 4


def test_an_output_of_other_prompts_or_settings_is_refused(autotune, complaint, tiny_model, prompts, tmp_path) -> None:
    out = tmp_path / "out.jsonl"
    words = ("generate", tiny_model, "--input", prompts, "--output", out)
    assert autotune(*words, "-n", "4").exit_code == 0
    before = out.read_bytes()
    for other in (("-n", "5"), ("-n", "4", "--temperature", "1"), ("-n", "4", "--chat"), ("-n", "4", "--seed", "1")):
        assert "other prompts or the same with other settings" in complaint(*words, *other)
    retrained, data = tmp_path / tiny_model.name, bytearray(tiny_model.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    retrained.write_bytes(data)
    assert "other prompts or the same with other settings" in complaint("generate", retrained, *words[2:], "-n", "4")
    prompts.write_text(json.dumps({"prompt": "another"}) + "\n")
    assert "other prompts or the same with other settings" in complaint(*words, "-n", "4")
    assert out.read_bytes() == before
    moved = tmp_path / "moved.gguf"
    moved.write_bytes(tiny_model.read_bytes())
    prompts.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    again = autotune("generate", moved, *words[2:], "-n", "4")
    assert (again.exit_code, out.read_bytes()) == (0, before), "the same model wherever it lies"


def test_what_cannot_be_answered_is_told_and_tried_again(autotune, tiny_model, tmp_path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    long = {"prompt": "a b c d e f " * 9, "id": "long"}
    source.write_text("".join(json.dumps(prompt) + "\n" for prompt in (PROMPTS[0], long, PROMPTS[1])))
    words = ("generate", tiny_model, "--input", source, "--output", out, "-n", "4")
    failed = autotune(*words, "--context", "24")
    assert failed.exit_code == 2 and failed.stderr.splitlines()[-1].startswith("autotune: error: 1 of 3 prompts could")
    assert 'Line 2 (id "long"): the prompt has ' in failed.stderr and "tries them again" in failed.stderr
    found = answers(out.read_text())
    assert found[1]["stop_reason"] == "error" and "the context holds 24" in found[1]["error"] and not found[1]["text"]
    assert found[0]["text"] and found[2]["text"]
    summary = json.loads(autotune(*words, "--json").stdout)
    assert summary["prompts"] == {"all": 3, "already": 2, "answered": 1, "failed": []}
    assert [answer.get("error") for answer in answers(out.read_text()).values()] == [None] * 3


def test_a_conversation_that_the_template_refuses_costs_itself_alone(
    autotune, tiny_model, tmp_path, monkeypatch
) -> None:
    from model.chat import ChatTemplate
    from model.engine import Model

    source = "{% if messages[0].content == 'no' %}{{ raise_exception('not this') }}{% endif %}{{ messages[0].content }}"
    monkeypatch.setattr(Model, "chat", property(lambda self: ChatTemplate(source)))
    lines = "".join(
        json.dumps({"messages": [{"role": "user", "content": word}]}) + "\n" for word in ("yes", "no", "well")
    )
    result = autotune("generate", tiny_model, "--input", "-", "-n", "3", input=lines)
    found = answers(result.stdout)
    assert result.exit_code == 2 and "not this" in found[1]["error"] and found[0]["text"] and found[2]["text"]


def test_wrong_words(complaint, tiny_model, prompts, tmp_path) -> None:
    batch = ("generate", "no-such.gguf", "--input", prompts)
    assert "give one of the two" in complaint(*batch, "-p", "hello")
    assert "--output is about a file of prompts" in complaint("generate", "m.gguf", "-p", "x", "--output", "o.jsonl")
    assert "--speculate is about one text" in complaint(*batch, "--speculate", "ngram")
    assert "--batch is about a file of prompts" in complaint("generate", "m.gguf", "-p", "x", "--batch", "2")
    assert "is not in the range" in complaint(*batch, "--batch", "0")
    assert "--json prints its document on stdout" in complaint(*batch, "--json")
    assert "names the file of the prompts" in complaint(*batch, "--output", prompts)
    assert "no such file" in complaint(*batch)
    batch = ("generate", tiny_model, "--input", prompts)
    assert "Is a directory" in complaint(*batch, "--output", tmp_path)
    assert "No such file" in complaint(*batch, "--output", tmp_path / "none" / "out.jsonl")
    assert "is a database or a model" in complaint(*batch, "--output", tiny_model)
    assert "Missing option '-p' / '--prompt', or '--input'" in complaint("generate", "m.gguf")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_full_disk_ends_a_run_in_one_line(autotune, tiny_model, prompts) -> None:
    result = autotune("generate", tiny_model, "--input", prompts, "--output", "/dev/full", "-n", "2")
    assert result.exit_code == 2 and "No space left" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_run_that_is_ended_goes_on(autotune, tiny_model, tmp_path, number) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"text {i}", "seed": i}) + "\n" for i in range(3000)))
    words = ("generate", tiny_model, "--input", source, "--output", out, "-n", "40", "--temperature", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", *map(str, words)], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size > 5000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number) and "Traceback" not in said
    kept = out.read_bytes()
    if number != signal.SIGKILL:
        assert kept.endswith(b"\n") and "the same command goes on" in said and "interrupted" in said
    lines = kept[: kept.rfind(b"\n") + 1]
    done = answers(lines.decode())
    assert 0 < len(done) < 3000
    source.write_text("".join(json.dumps({"prompt": f"text {i}", "seed": i}) + "\n" for i in range(max(done) + 1)))
    assert autotune(*words).exit_code == 0
    assert out.read_bytes().startswith(lines) and answers(out.read_text()).keys() == set(range(max(done) + 1))
