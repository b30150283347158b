#!/usr/bin/env bash
# tritonparse 0.6.0: timestamps end in a literal "%f", and are local times that say UTC ("Z").
#
# Every event of its structured log has a "timestamp" in ISO 8601 but for where the microseconds should be, as in
# `2026-11-30T15:38:11.%fZ`, which datetime.fromisoformat refuses. Without the "%f" it is a date, but the wrong one: the
# hour is that of the writer's zone, and the "Z" says UTC. A good engineer expects logs of two machines to line up by
# their timestamps. What to do: write logs with TZ=UTC0 in the environment, drop the "%f" when reading; of a log from
# elsewhere take the order and the distances of events, and no moment unless the writer's zone is known.
#
# Needs Linux on x86-64, Python 3.11 or newer with pip, no GPU. Exits 1 when the behaviour is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder/site" tritonparse==0.6.0 triton==3.6.0 \
    torch==2.13.0 numpy==2.4.6
cat >"$folder/copied.py" <<'PYTHON'
import datetime
import json
import os
import pathlib

import triton
import triton.language as tl
import tritonparse.structured_logging
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def copy(a, out):
    i = tl.arange(0, 128)
    tl.store(out + i, tl.load(a + i))


folder = f"trace{os.environ['TZ']}"
tritonparse.structured_logging.init(folder)
source = ASTSource(copy, {"a": "*fp32", "out": "*fp32"}, constexprs={})
triton.compile(source, target=GPUTarget("cuda", 90, 32))
(written,) = pathlib.Path(folder).glob("*.ndjson")
stamp = json.loads(written.read_text().splitlines()[0])["timestamp"]
ending = stamp[len("2026-11-30T15:38:11") :]
said = datetime.datetime.fromisoformat(stamp.removesuffix(ending)).replace(tzinfo=datetime.timezone.utc)
hours = (said - datetime.datetime.now(datetime.timezone.utc)).total_seconds() / 3600
print(f"TZ={os.environ['TZ']}: ends in {ending}, {round(hours)} hours from UTC")
PYTHON
run() { (cd "$folder" && TRITON_CACHE_DIR="$folder/cache$1" PYTHONPATH="$folder/site" TZ=$1 python3 copied.py 2>log); }
seen=$(run UTC0 && run JST-9) || { tail -5 "$folder/log" >&2; exit 1; }
expected="TZ=UTC0: ends in .%fZ, 0 hours from UTC
TZ=JST-9: ends in .%fZ, 9 hours from UTC"
echo "$seen"
[[ $seen == "$expected" ]] || { echo "this is not what was seen with tritonparse 0.6.0" >&2; exit 1; }
