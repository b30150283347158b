"""`autotune generate` and `autotune chat` on tiny models: what is written where."""

import json
from pathlib import Path

import pytest

from autotune.commands import options
from kernel_templates.attention import cache
from model import engine
from model.errors import ModelError

MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"


def test_json_is_one_document(autotune, tiny_model) -> None:
    result = autotune("generate", tiny_model, "-p", "hello there", "-n", "6", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0 and document["prompt"] == "hello there" and document["text"]
    timings = document["timings"]
    assert document["tokens"]["text"] == 6 and timings["prompt_s"] > 0
    assert timings["load_s"] + timings["prompt_s"] < timings["first_token_s"], "counted from the process's start"
    assert document["stop_reason"] == "length" and "stopped after 6 tokens; -n 12 writes" in result.stderr
    assert document["sampling"] == {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
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
    assert "[the context of 40 tokens is full; --context holds more, up to 256]" in full.stderr


def test_cached_tokens_are_no_prompt_speed() -> None:
    from autotune.commands import loading
    from model.engine import Timing

    timing = Timing(prompt_tokens=100, cached=90, prompt_s=0.5, tokens=2, decode_s=0.1)
    assert loading.rates(timing)["prompt_tok_s"] == 20
    assert loading.speed_line(timing).startswith("prompt: 100 tokens (90 of them in the cache), 20.0 tok/s")


def test_special_tokens_in_a_prompt_are_parsed_unless_plain(autotune, tiny_model) -> None:
    words = ("generate", tiny_model, "-p", "-", "-n", "1", "--json")
    counts = [
        json.loads(autotune(*words, *more, input="<|im_start|>a<|im_end|>").stdout)["tokens"]["prompt"]
        for more in ((), ("--plain",))
    ]
    assert counts[0] == 3 < counts[1]


def test_plain_and_template_arguments_have_their_place(complaint) -> None:
    words = ("generate", "no-such.gguf", "-p", "x")
    assert "leave out --chat or --plain" in complaint(*words, "--chat", "--plain")
    assert "give --chat too" in complaint(*words, "--template-arg", "a=1")
    for wrong in ("a", "=1", "a b=1"):
        assert "is not NAME=VALUE" in complaint(*words, "--chat", "--template-arg", wrong)
    assert "is given anyway" in complaint(*words, "--chat", "--template-arg", "messages=[]")
    assert "nests too deeply" in complaint(*words, "--chat", "--template-arg", "a=" + "[" * 20_000)


def test_template_arguments_are_json_or_text(autotune, tiny_model) -> None:
    from autotune.commands import options

    given = options._template_variables(None, None, ("a=false", "b=[1]", "c=high", 'd="x"', "e="))  # type: ignore[arg-type]
    assert given == {"a": False, "b": [1], "c": "high", "d": "x", "e": ""}
    words = ("generate", tiny_model, "--chat", "-p", "hello", "-n", "1", "--template-arg", "enable_thinking=false")
    assert "does not mention enable_thinking" in autotune(*words).stderr


def test_speculation_says_what_became_of_proposals(autotune, tiny_model) -> None:
    words = ("generate", tiny_model, "-p", "one two one two one two", "-n", "60", "--seed", "2")
    plain, speculated = (json.loads(autotune(*words, "--json", "--speculate", way).stdout) for way in ("off", "ngram"))
    assert plain["speculation"] is None
    done = speculated["speculation"]
    assert set(done) == {"proposed", "kept", "passes", "off"} and done["passes"] > 0 < done["proposed"] >= done["kept"]
    assert speculated["text"] == plain["text"] and speculated["tokens"] == plain["tokens"]
    said = autotune(*words, "--speculate", "ngram").stderr
    assert "tok/s · speculation: " in said and " proposed, " in said
    assert autotune("chat", tiny_model, "-n", "4", "--speculate", "ngram", input="hello\n").exit_code == 0
    assert autotune(*words, "--speculate", "dragon").exit_code == 2


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (None, "tok/s"),
        ((0, 0, 0, False), "tok/s · speculation: 0 proposed, 0 kept, 0 passes"),
        ((14, 3, 2, True), "14 proposed, 3 kept, 2 passes; turned itself off, since single steps were faster"),
    ],
)
def test_the_line_of_speed_with_speculation(done, said) -> None:
    from autotune.commands import loading
    from model.engine import Timing
    from model.speculation_policy import Speculated

    timing = Timing(tokens=9, decode_s=1.0, speculated=None if done is None else Speculated(*done))
    assert loading.speed_line(timing).endswith(said)


def test_what_cuts_a_text_is_told(autotune, tiny_model) -> None:
    words = ("generate", tiny_model, "-p", "hello", "--json", "-n", "999")
    cut = autotune(*words, "--context", "40")
    assert json.loads(cut.stdout)["stop_reason"] in ("context_full", "end_token")
    most = autotune(*words, "--context", "9999999")
    assert "the model was trained for a context of" in most.stderr


@pytest.mark.parametrize(
    ("timing", "reason", "said"),
    [
        ({"tokens": 5, "ended": True}, "end_token", None),
        ({"tokens": 20}, "length", "stopped after 20 tokens; -n 40"),
        ({"tokens": 10}, "context_full", "--context holds more, up to 100"),
        ({"tokens": 90}, "context_full", "trained for no more"),
        ({"tokens": 3}, None, None),
        ({"tokens": 0}, None, None),
    ],
)
def test_why_it_stopped(timing, reason, said) -> None:
    from types import SimpleNamespace

    from autotune.commands import loading
    from model.engine import Timing

    tokens = timing["tokens"]
    context = 100 if tokens == 90 else 20
    asked = 20 if tokens < 90 else 1000
    model = SimpleNamespace(
        timing=Timing(prompt_tokens=10, **timing), context=context, config=SimpleNamespace(context=100)
    )
    assert loading.stop_reason(model.timing, asked, context) == reason
    why = loading.why_it_stopped(model, asked)
    assert why is None if said is None else said in why


def test_sampling_comes_from_options_then_the_file_then_the_command(capsys) -> None:
    from types import SimpleNamespace

    from autotune.commands import loading

    file = {"general.sampling.temp": 0.6, "general.sampling.top_k": 20, "general.sampling.min_p": 0.05}
    model = SimpleNamespace(file=SimpleNamespace(metadata=file))
    defaults = {"temperature": 0.0, "top_k": 0, "top_p": 0.9}
    sampler = loading.sampler_for(model, {"temperature": None, "top_k": 3, "top_p": None}, defaults, seed=4)
    assert (sampler.temperature, sampler.top_k, sampler.top_p, sampler.seed) == (0.6, 3, 0.9, 4)
    said = capsys.readouterr().err
    assert "as the model file asks: temperature 0.6; options override" in said and "min_p 0.05, which is not" in said
    loading.sampler_for(SimpleNamespace(file=SimpleNamespace(metadata={})), {}, defaults, None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("size", ["8", "8TB", "-1GB", "0GB", "1e9GB", "lots"])
def test_sizes_of_memory_that_are_none(autotune, tiny_model, size) -> None:
    result = autotune("generate", tiny_model, "-p", "a", "--gpu-memory", size)
    assert result.exit_code == 2 and "is no size of memory; give 8GB" in result.stderr


def test_a_processor_has_no_memory_of_a_gpu(autotune, tiny_model) -> None:
    for command in (("generate", tiny_model, "-p", "a"), ("chat", tiny_model), ("bench", tiny_model)):
        result = autotune(*command, "--gpu-memory", "7.5 GiB")
        assert result.exit_code == 2 and result.stderr.strip().count("\n") == 0
        assert "a GPU's memory" in result.stderr and "cuda:0" in result.stderr


@pytest.mark.parametrize("words", [("generate", "-p", "a"), ("chat",), ("bench",), ("tune",)])
def test_a_cache_of_eight_bits_is_for_a_gpu(complaint, tiny_model, monkeypatch, words) -> None:
    """Said before anything is loaded; so is a format that there is not."""
    monkeypatch.setattr(engine, "load", None)
    command, *rest = words
    said = complaint(command, tiny_model, *rest, "--cache", "q8_0")
    assert "--cache q8_0 is for a GPU" in said and "cuda:0" in said
    said = complaint(command, tiny_model, *rest, "--cache", "q4_0")
    assert "q4_0" in said and "f16" in said and "q8_0" in said


def test_the_api_refuses_the_same_caches(tiny_model) -> None:
    with pytest.raises(ModelError, match="for a GPU so far"):
        engine.load(tiny_model, cache="q8_0")
    assert options.CACHES == cache.FORMATS  # named twice, since the command line imports no numbers for its help
    with pytest.raises(ModelError, match="'q5_1' is not known; use f16 or q8_0"):
        engine.load(tiny_model, cache="q5_1")


@pytest.mark.parametrize("words", [("generate", "-p", "hi"), ("chat",)])
def test_speculation_is_refused_before_weights_are_read(complaint, monkeypatch, words) -> None:
    monkeypatch.setattr(engine, "load", None)
    command, *rest = words
    said = complaint(command, MODELS / "qwen35.gguf", *rest, "--speculate", "ngram")
    assert "cannot go back" in said and "leave out --speculate" in said
