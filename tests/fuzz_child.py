"""The process that reads damaged files: python fuzz_child.py SOUND WORK SEED FIRST LAST.

It says on stdout, a line of JSON each, which input it begins and how reading ended, so that its parent knows what it
was at when it died or hung. Memory is limited to 1 GiB above what the imports need; whatever is opened for writing,
removed, started or executed while a reader is at work is reported, except in the folder for scratch.
"""

from __future__ import annotations

import gc
import io as streams
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
sys.dont_write_bytecode = True

from fuzz_corpus import READERS, Reader, scratch  # noqa: E402
from fuzz_mutations import damage  # noqa: E402
from stpath_core.errors import StpathError  # noqa: E402

LIMIT = 2**30
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
RUNNABLE = ("os", "posix", "subprocess", "sys", "shutil")  # classes of zarr and dask go through pickle, too
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate",
           "shutil.rmtree", "shutil.move", "shutil.copyfile")  # fmt: skip
OUT_OF_MEMORY = re.compile("unable to allocate|out of memory|bad_alloc|bad allocation|realloc|cannot allocate", re.I)
_seen: list[str] | None = None  # what the reader at work has touched; None: no reader is at work


def _watch(event: str, args: tuple) -> None:
    if _seen is None or (event == "os.mkdir" and "torchinductor" in str(args[0])):  # torch's own cache, once
        return
    writes = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and args[0] != os.devnull
    runs = event in STARTS or (event == "pickle.find_class" and args[0] in RUNNABLE)
    if runs or ((writes or event in CHANGES) and not _for_scratch(event, args)):
        _seen.append(f"{event} {str(args)[:200]}")


def _for_scratch(event: str, args: tuple) -> bool:
    """Whether all that is touched lies below the folder for scratch; names may be told from an open folder."""
    if event not in ("open", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree") or isinstance(args[0], int):
        return False
    at = args[-1] if event.startswith("os.") and args[-1] >= 0 else None
    folder = Path.cwd() if at is None else Path(f"/proc/self/fd/{at}").readlink()
    return Path(os.path.normpath(folder / os.fsdecode(args[0]))).is_relative_to(scratch())


def choose(sound: Path, number: int, seed: int) -> tuple[str, Reader, Path, np.random.Generator]:
    """Reader and file of an input, from its number alone."""
    rng = np.random.default_rng([seed, number])
    weights = np.array([reader.weight for reader in READERS.values()])
    name = list(READERS)[rng.choice(len(weights), p=weights / weights.sum())]
    files = sorted(p for p in (sound / name).rglob("*") if p.is_file() and "truth" not in p.parts)
    files = [p for p in files if name != "zarr" or "bundle" not in p.parts]
    return name, READERS[name], files[rng.integers(0, len(files))], rng


def one(sound: Path, work: Path, number: int, seed: int) -> dict:
    """Damage a copy of one file, read it, and say how that ended."""
    global _seen
    name, reader, file, rng = choose(sound, number, seed)
    folder = work / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound / name, folder, copy_function=os.link)
    changed = folder / file.relative_to(sound / name)
    changed.unlink()
    shutil.copy(file, changed)
    how = damage(changed, rng)
    about = {"input": number, "reader": name, "file": changed.name, "damage": how}
    print(json.dumps(about), flush=True)
    begun, said = time.monotonic(), streams.StringIO()
    _seen = touched = []
    error: BaseException | None = None
    try:
        with redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings(action="ignore"):
            reader.open(folder, changed)
    except Exception as caught:
        error = caught
    finally:
        _seen = None
    touched += [f"left {path.name}" for path in scratch().glob("*")]
    about |= {"seconds": round(time.monotonic() - begun, 2), "end": "read" if error is None else "refused"}
    about["wrong"] = _wrong(error, touched)
    if error is not None:
        about["message"] = f"{type(error).__name__}: {error}"[:300]
    return about


def _wrong(error: Exception | None, touched: list[str]) -> str:
    if touched:
        return f"touched {touched[:3]}"
    chain, at = [], error
    while at is not None:
        chain.append(at)
        at = at.__cause__ or at.__context__
    if any(isinstance(e, MemoryError) or OUT_OF_MEMORY.search(str(e)[:2000]) for e in chain):
        return f"memory: {chain[-1]!r}"[:300]
    if error is None:
        return ""
    if not isinstance(error, StpathError):
        place = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in place if "stpath_core" in f.filename]
        return f"{type(error).__name__} at {ours[-1] if ours else '?'}"
    first = str(error).partition("\n\nnotebooks: ")[0]  # the example of a sweep's file follows its message
    return "message of several lines" if "\n" in first or len(str(error)) > 2000 else ""


def main(sound: Path, work: Path, seed: int, first: int, last: int) -> None:
    import pyarrow

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    for reader in READERS:  # what is imported late is imported now
        with redirect_stdout(streams.StringIO()), warnings.catch_warnings(action="ignore"):
            files = sorted(p for p in (sound / reader).rglob("*") if p.is_file())
            for file in files if reader == "checkpoint" else files[:1]:
                READERS[reader].open(sound / reader, file)
    used = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmSize" in line)
    resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + LIMIT, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tempfile.gettempdir()  # looks for a folder that can be written, once
    sys.addaudithook(_watch)
    gc.freeze()
    for number in range(first, last):
        print(json.dumps(one(sound, work, number, seed)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6]))
