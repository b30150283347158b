"""See scripts/ship_winners. What is in a chip's file already is merged too, so that a refresh loses nothing: of two
winners of one problem on the same device the better time stays."""

import argparse
import tempfile
from pathlib import Path

from tuning_db import jsonl, open_db, shipped, stored_records


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/ship_winners", description="Make tuning_db/shipped/ from databases, one file a chip."
    )
    parser.add_argument("databases", nargs="+", type=Path, metavar="DATABASE", help="That autotune tune has filled.")
    parser.add_argument("--chip", default="", help="Only chips whose name has this in it.")
    parser.add_argument("--afresh", action="store_true", help="Leave out what the chip's file has now.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_db(Path(folder) / "all.db") as everything:
        for path in arguments.databases:
            with open_db(path, readonly=True) as one:
                _add(everything, one.exported(), str(path))
        if not arguments.afresh:
            for file in sorted(shipped.FOLDER.glob("*.jsonl")):
                _add(everything, jsonl.read_text(file.read_text(encoding="utf-8"), str(file)), file.name)
        found = stored_records.of_chip(everything.exported(winners_only=True), arguments.chip)
        for chip_key in sorted({fact["chip_key"] for fact in found if fact["kind"] == "device"}):
            path = shipped.FOLDER / shipped.file_name(chip_key)
            own = stored_records.of_chip_key(found, chip_key)
            path.write_text("".join(f"{line}\n" for line in jsonl.write(own)), encoding="utf-8")
            print(f"{path.name}: {sum(fact['kind'] == 'winner' for fact in own)} winners")


def _add(everything, news, name: str) -> None:
    for conflict in everything.add(news).conflicts:
        kept, other = conflict.kept_ns / 1e3, conflict.other_ns / 1e3
        print(f"{name}: {conflict.problem} on {conflict.chip}: {kept:.2f} µs is used, not {other:.2f} µs")


if __name__ == "__main__":
    main()
