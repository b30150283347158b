"""The file of answers: whole lines only, wherever a run was killed; nothing of anybody else's is touched."""

import json
import os
import stat
from pathlib import Path

import pytest

from autotune import UserError
from autotune.commands.answer_file import AnswerFile

WANTED = {("index", 0): (0, "aa"), ("id", "x"): (1, "bb"), ("index", 2): (2, "cc"), ("id", 3): (3, "dd")}
ANSWERS = [
    (2, "cc", {"text": 'one\n"two" é 🙂', "metadata": {"a": 1}}),
    (1, "bb", {"id": "x", "text": ""}),
    (0, "aa", {"text": "\u2028\x85\u2029\x1e"}),
    (3, "dd", {"id": 3, "text": "end"}),
]


def written(path: Path, answers=ANSWERS) -> list[bytes]:
    """The lines of a file with these answers."""
    with AnswerFile(path, WANTED) as file:
        for index, digest, answer in answers:
            if index not in file.done:
                file.write(index, digest, answer)
    return path.read_bytes().splitlines(keepends=True)


def test_one_line_an_answer(tmp_path: Path) -> None:
    lines = written(tmp_path / "out.jsonl")
    assert [json.loads(line) for line in lines] == [{"index": i, "request": d, **a} for i, d, a in ANSWERS]
    assert "é 🙂".encode() in lines[0]
    assert len(b"".join(lines).decode().splitlines()) == len(ANSWERS), "Unicode has more ends of lines than JSON"


def test_cut_anywhere_it_becomes_whole_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = written(path)
    whole = b"".join(lines)
    ends = [len(b"".join(lines[:n])) for n in range(len(lines) + 1)]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with AnswerFile(path, WANTED) as file:
            kept = max(n for n, end in enumerate(ends) if end <= cut)
            assert file.done == {index for index, _, _ in ANSWERS[:kept]}
            assert path.read_bytes() == whole[: ends[kept]]
        assert written(path) == lines


def test_what_failed_is_tried_again_in_place(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    failed = (1, "bb", {"id": "x", "text": "", "error": "too long"})
    written(path, [ANSWERS[0], failed, ANSWERS[2]])
    path.chmod(0o640)
    (tmp_path / ".out.jsonl.unfinished").write_text("of a run that was killed")
    with path.open("ab") as file:
        file.write(b'{"index": 3, "requ')
    (tmp_path / "link.jsonl").symlink_to(path)
    lines = written(tmp_path / "link.jsonl", [ANSWERS[3], ANSWERS[1]])
    assert [json.loads(line)["index"] for line in lines] == [2, 0, 3, 1]
    assert (tmp_path / "link.jsonl").is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"my thesis", "line 1 of"),
        (b"my thesis\n", "line 1 of"),
        (b'{"index": 0, "request": "aa", "text": ""}\nnotes', "line 2 of"),
        (b'{"index": 0}\n', "line 1 of"),
        (b"[]\n", "line 1 of"),
        (b"\n", "line 1 of"),
        (b"\xff\xfe\n", "line 1 of"),
        (b"[" * 100_000 + b"\n", "line 1 of"),
        (b"\0" * 50, "line 1 of"),
        (b'{"index": 0, "request": "zz", "text": ""}\n', "prompt 0"),
        (b'{"index": 7, "request": "aa", "text": ""}\n', "prompt 7"),
        (b'{"index": [], "request": "aa", "text": ""}\n', "prompt []"),
        (b'{"index": 0, "request": "aa", "id": "y"}\n', 'id "y"'),
        (b'{"index": 0, "request": "aa", "id": {}}\n', "id {}"),
        (b"SQLite format 3\0 and so on", "is a database or a model"),
        (b"GGUF\3\0\0\0", "is a database or a model"),
    ],
)
def test_what_is_not_ours_is_left_alone(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        AnswerFile(path, WANTED)
    assert said in str(refused.value) and str(path) in str(refused.value) and len(str(refused.value)) < 400
    assert path.read_bytes() == content


def test_one_run_at_a_time_writes(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    written(path, [(1, "bb", {"id": "x", "error": "no"}), ANSWERS[0]])
    for _ in range(2):  # the first finds what failed and makes the file anew, which must be locked too
        with AnswerFile(path, WANTED), pytest.raises(UserError, match="another run writes to"):
            AnswerFile(path, WANTED)
    with AnswerFile(path, WANTED) as file:
        assert file.done == {2}


def test_a_pipe_is_only_written_to(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with AnswerFile(path, WANTED) as file:
        file.write(*ANSWERS[0])
    assert json.loads(os.read(reader, 1000))["index"] == 2
    os.close(reader)
    with AnswerFile(Path("/dev/null"), WANTED) as file:
        file.write(*ANSWERS[0])


def test_a_full_disk_is_told() -> None:
    with pytest.raises(OSError, match="No space left"), AnswerFile(Path("/dev/full"), WANTED) as file:
        file.write(*ANSWERS[0])
