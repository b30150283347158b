"""`autotune generate` and `autotune chat` on tiny models: what is written where."""

import json

import pytest


def test_json_is_one_document(autotune, tiny_model) -> None:
    result = autotune("generate", tiny_model, "-p", "hello there", "-n", "6", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0 and document["prompt"] == "hello there" and document["text"]
    timings = document["timings"]
    assert document["tokens"]["text"] == 6 and timings["prompt_s"] > 0
    assert timings["load_s"] + timings["prompt_s"] < timings["first_token_s"], "counted from the process's start"
    assert len(document["kernels"]) == 5 and {k["source"] for k in document["kernels"]} == {"default"}
    assert "kernels: 5 template defaults (for more speed: autotune tune" in result.stderr


def test_text_goes_to_stdout_alone(autotune, tiny_qwen3) -> None:
    words = ("generate", tiny_qwen3, "-p", "-", "-n", "6", "--seed", "3", "--temperature", "1", "--untuned")
    piped = autotune(*words, input="hello\n")
    assert piped.exit_code == 0 and piped.stdout.endswith("\n") and "tok/s" not in piped.stdout
    assert piped.stderr.splitlines()[0].startswith("prompt: ") and "(--untuned)" in piped.stderr
    direct = autotune(*(("hello" if w == "-" else w) for w in words))
    assert direct.stdout == piped.stdout
    document = json.loads(autotune(*words, "--json", input="hello").stdout)
    assert document["text"].rstrip("\n") == direct.stdout.rstrip("\n")


def test_chat_flag_renders_the_template(autotune, tiny_model) -> None:
    raw, chat = (
        json.loads(autotune("generate", tiny_model, "-p", "hello", "-n", "1", "--json", flag).stdout)
        for flag in ("--raw", "--chat")
    )
    assert chat["tokens"]["prompt"] > raw["tokens"]["prompt"] + 5


def test_winners_are_used(autotune, tiny_model, own_database) -> None:
    from kernel_templates import registry
    from kernel_templates.cpu import machine
    from tuning_db import open_db
    from tuning_db.records import Measurement, Winner

    document = json.loads(autotune("generate", tiny_model, "-p", "a", "-n", "1", "--json").stdout)
    key = document["kernels"][0]["problem"]
    problem = registry.parse_problem(key)
    default = registry.cpu_space(problem, machine.features()).default
    winner = Winner(key, problem.template_version, dict(default), Measurement(1.0, 1.0, 1.0, 9), 1.0, 0.0, 1.0)
    with open_db(own_database) as db:
        db.set_winner(machine.detect(), winner, None, None)
    result = autotune("generate", tiny_model, "-p", "a", "-n", "1", "--json")
    assert json.loads(result.stdout)["kernels"][0]["source"] == "exact"
    assert "kernels: 1 tuned for this machine, 4 template defaults" in result.stderr


def test_chat_through_a_pipe(autotune, tiny_model) -> None:
    result = autotune("chat", tiny_model, "-n", "4", "--seed", "1", input="hello\n\n/reset\nyou\n/exit\nnever\n")
    assert result.exit_code == 0 and result.stdout.count("\n") >= 2
    notes = [line for line in result.stderr.splitlines()[:-1] if not line.startswith("[")]
    assert notes == ["the conversation starts over"]
    assert autotune("chat", tiny_model, input="").exit_code == 0


def test_chat_drops_the_oldest_turns_and_says_so(autotune, tiny_model) -> None:
    lines = "".join(f"question number {n} of this talk\n" for n in range(4))
    result = autotune("chat", tiny_model, "-n", "16", "--context", "128", "--seed", "1", input=lines)
    assert result.exit_code == 0 and "outgrew the context: dropped its oldest turn" in result.stderr


@pytest.mark.parametrize("command", [("generate", "-p", "hello", "-n", "4"), ("chat", "-n", "4")])
def test_seed_repeats(autotune, tiny_model, command) -> None:
    words = (command[0], tiny_model, *command[1:], "--temperature", "1", "--seed", "7")
    first, second = (autotune(*words, input="hi there\n").stdout for _ in range(2))
    assert first == second != ""


def test_an_empty_prompt_is_refused_before_the_model_is_opened(complaint) -> None:
    assert "the prompt is empty" in complaint("generate", "no-such.gguf", "-p", "")
    assert "the prompt is empty" in complaint("generate", "no-such.gguf", "-p", "-", input="\n")


def test_chat_commands(autotune, tiny_model) -> None:
    result = autotune("chat", tiny_model, "-n", "4", input="/help\n/clear\n/exit\nnever\n")
    assert (result.exit_code, result.stdout) == (0, "")
    assert all(name in result.stderr for name in ("/help", "/clear", "/exit", "the conversation starts over"))
    for unknown in ("/quit", "/Clear", "/"):
        refused = autotune("chat", tiny_model, "-n", "4", input=f"{unknown}\nhello\n")
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert f"no command is called {unknown}; there are /help" in refused.stderr
    assert autotune("chat", tiny_model, "-n", "4", "--seed", "1", input="/etc/hosts is what?\n").stdout


def test_chat_says_why_an_answer_is_cut(autotune, tiny_model) -> None:
    """With a seed whose answer does not end by itself."""
    cut = autotune("chat", tiny_model, "-n", "4", "--seed", "1", input="hello\n")
    assert "[stopped after 4 tokens; -n 8 writes up to twice as many]" in cut.stderr
    full = autotune("chat", tiny_model, "-n", "512", "--context", "40", "--seed", "1", input="hello\n")
    assert "[the context of 40 tokens is full; --context holds more]" in full.stderr


def test_cached_tokens_are_no_prompt_speed() -> None:
    from autotune.commands import loading
    from model.engine import Timing

    timing = Timing(prompt_tokens=100, cached=90, prompt_s=0.5, tokens=2, decode_s=0.1)
    assert loading.rates(timing)["prompt_tok_s"] == 20
    assert loading.speed_line(timing).startswith("prompt: 100 tokens (90 of them in the cache), 20.0 tok/s")
