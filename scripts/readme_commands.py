"""Runs the README's commands one after another, as a new user would: see scripts/readme_commands."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PROMPTS = '{"prompt": "One, two,", "tokens": 8}\n{"messages": [{"role": "user", "content": "Hello"}]}\n'
TYPED = "Tell me a story.\n/exit\n"  # for what reads from a terminal
FIND_MODEL = "import sys; sys.path.insert(0, 'scripts'); from peer.files import real_model; print(real_model())"


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a Markdown text in one language, without their fences."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """What follows the prompts of all console blocks, in order, comments removed."""
    lines = [line for block in blocks(text, "console") for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line[2:]).strip() for line in lines if line.startswith("$ ")]


def why_not(command: str, folder: Path, python: str) -> str | None:
    """Why a command cannot be run in a folder without a GPU; None if it can."""
    if "cuda:" in command:
        return "needs a GPU"
    missing = [name for name in re.findall(r"\S+\.(?:ncu-rep|sqlite)", command) if not (folder / name).exists()]
    if missing:
        return f"reads {' and '.join(missing)} of one's own"
    triton = [python, "-c", "import triton"]
    if command.startswith("autotune screen") and subprocess.run(triton, capture_output=True).returncode:
        return "needs the extra cuda"
    return None


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--python", help="one that has this project's dependencies, instead of ./scripts/setup_env")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), given.python)


def run(folder: Path, installed: str | None) -> None:
    """In a clone of the last commit, with a home folder of its own. Exits with 1 when a command fails."""
    clone, home = folder / "autotune", folder / "home"
    home.mkdir()
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "AUTOTUNE_", "PYTHON", "VIRTUAL"))}
    environment |= {"HOME": str(home), "TUNE_SECONDS": "10"}
    python, begin = str(clone / ".venv" / "bin" / "python"), "source .venv/bin/activate; "
    if installed is not None:
        (folder / "bin").mkdir()
        wrapper = folder / "bin" / "autotune"
        wrapper.write_text(f'#!/bin/sh\nexec "{installed}" -m autotune "$@"\n')
        wrapper.chmod(0o755)
        python, begin = installed, ""
        environment |= {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHON_ENV": installed, "PYTHONPATH": str(clone),
        }  # fmt: skip
    text = README.read_text(encoding="utf-8")
    scripts = [*commands(text), *(f"python - <<'END'\n{block}\nEND" for block in blocks(text, "python"))]
    failed = 0
    for command in scripts:
        shown = command.splitlines()[-2 if command.startswith("python") else 0]
        setup = command.startswith("./scripts/setup_env")
        reason = why_not(command, clone, python)
        if setup and installed is not None:
            reason = "--python is given"
        if reason is not None:
            print(f"-- left out, {reason}: {shown}", flush=True)
            continue
        if not setup and not (clone / "model.gguf").exists():
            found = subprocess.run(
                [python, "-c", FIND_MODEL], cwd=clone, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            (clone / "model.gguf").symlink_to(found.stdout.strip())
            (clone / "prompts.jsonl").write_text(PROMPTS)
        begun = time.monotonic()
        line = command if setup else begin + command.replace("python -", f'"{python}" -', 1)
        done = subprocess.run(
            ["bash", "-c", line], cwd=clone, env=environment, input=TYPED, capture_output=True, text=True
        )
        wrong = done.returncode or "Traceback" in done.stderr
        failed += bool(wrong)
        print(f"-- {'FAILED' if wrong else 'ran'}, {time.monotonic() - begun:.0f} s: {shown}", flush=True)
        if wrong:
            print(f"ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
