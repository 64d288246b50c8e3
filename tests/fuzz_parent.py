"""Run the fuzzing child, watch it, and start it again after what killed or hung it."""

from __future__ import annotations

import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from conftest import ROOT

HANG_S = 10
START_S = 180  # imports and a first reading of every format, on a loaded machine


def run(sound: Path, *, seed: int, first: int, last: int) -> list[dict]:
    """How each input from `first` to before `last` ended; "crash" and "hang" are ends, too."""
    ended: list[dict] = []
    while first < last:
        ended += _until_it_dies(sound, seed, first, last)
        if ended[-1]["end"] == "hang":  # a loaded machine may be slow once: a hang is one that comes again
            again = ended.pop()["input"]
            ended += _until_it_dies(sound, seed, again, again + 1)
        first = ended[-1]["input"] + 1
    return ended


def _until_it_dies(sound: Path, seed: int, first: int, last: int) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="work-", dir=sound.parent) as work, tempfile.TemporaryFile("w+") as said:
        words = [sys.executable, str(Path(__file__).with_name("fuzz_child.py")), str(sound), work]
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
            "TMPDIR": work,
            "PYTHONPATH": str(ROOT),
        }
        child = subprocess.Popen(
            [*words, *map(str, (seed, first, last))], stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        )
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_pass_on, args=(child.stdout, lines), daemon=True).start()
        ended, begun = [], None
        try:
            while line := lines.get(timeout=HANG_S if begun or ended else START_S):
                told = json.loads(line)
                begun = None if "end" in told else told
                ended += [told] if "end" in told else []
            code = child.wait()
        except queue.Empty:
            child.kill()
            code = "hang"
        child.wait()
        if begun is not None or code != 0:
            said.seek(0)
            tail = said.read()[-500:]
            about = begun or {"input": first + len(ended), "reader": "", "file": "", "damage": ""}
            assert begun is not None, f"the child ended with {code} between inputs: {tail}"
            kind = "hang" if code == "hang" else f"crash {code}"
            ended.append(about | {"end": kind, "wrong": kind, "message": tail})
    return ended


def _pass_on(source: Iterable[str], lines: queue.Queue[str]) -> None:
    for line in itertools.chain(source, [""]):
        lines.put(line)


def summary(ended: list[dict]) -> dict[str, int]:
    """How many inputs were read, refused, and wrong."""
    wrong = [e for e in ended if e["wrong"]]
    return {"inputs": len(ended), "read": sum(e["end"] == "read" for e in ended),
            "refused": sum(e["end"] == "refused" for e in ended), "wrong": len(wrong)}  # fmt: skip


if __name__ == "__main__":
    here, start, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    found = run(here, seed=0, first=start, last=start + count)
    for e in found:
        if e["wrong"]:
            print(json.dumps(e))
    print(summary(found), "slowest", max(e.get("seconds", 0) for e in found))
