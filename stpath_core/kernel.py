"""What surrounds the process that a notebook runs in: its environment and its sockets."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stpath_core import record

# What makes a training step on a CPU quicker, and has to be known before a process starts.
_QUICKER = {
    # threads that wait without spinning: ten times faster where another process wants the cores, too
    "OMP_WAIT_POLICY": "PASSIVE",
    # threads of numpy's linear algebra beside torch's own: a ridge of a few hundred rows took a hundred times longer
    "OPENBLAS_NUM_THREADS": "1",
    # glibc returns every large tensor to the system and asks for it again, page by page; keeping it saves a third
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


@contextmanager
def surroundings(folder: Path, given: Mapping[str, Any]) -> Iterator[None]:
    """What the kernel inherits: where to record, what was given, and this library."""
    library = str(Path(__file__).parents[1])
    ours = {
        record.FOLDER_VARIABLE: str(folder),
        record.GIVEN_VARIABLE: json.dumps({k: v for k, v in given.items() if k != "out"}),
        "PYTHONPATH": os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")])),
    }
    ours |= {name: os.environ.get(name, value) for name, value in _QUICKER.items()}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def sockets() -> Iterator[str]:
    """Where a kernel's sockets lie, as files that only this user opens; "" where they must be ports of this machine.

    Ports are looked for before the kernel takes them, so two notebooks that start at once can be told the same one:
    the second kernel dies. Names of files are this run's own. A name of more than about a hundred letters is refused.
    """
    with tempfile.TemporaryDirectory(prefix="stpath-", ignore_cleanup_errors=True) as folder:
        yield str(Path(folder) / "kernel") if os.name == "posix" and len(folder) < 80 else ""
