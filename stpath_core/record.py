"""What a notebook writes down: its parameters checked, its outputs in one folder, its numbers asserted and recorded.

The second code cell of every notebook, after the parameters cell, reads

    from stpath_core.record import begin, expect, report
    run = begin("11_nuclei_train", globals())

and its last one `run.done()`. Between them:

    labels = run.inputs("10_nuclei_labels") / "nuclei.h5"     # made first if it is missing
    history = run.stage / "history.csv"               # outputs that other notebooks read
    run.figure("overlay", ax)                                 # figures/overlay.png of this run
    expect("part1.registration.od_contrast", value, low=0.15, high=0.9, why="near 0 the images are not registered")
    report("part1.unseen.bpq", mean, lo, hi)                  # recorded, not asserted
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import json
import math
import numbers
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stpath_core import datasets, latest, manifest, session, stages
from stpath_core.checks import check_values
from stpath_core.errors import InputError, StpathError
from stpath_core.io.files import atomic_folder, atomic_path
from stpath_core.parameters import as_text, refuse_unknown
from stpath_core.progress import replaced_line

GIVEN_VARIABLE = "STPATH_GIVEN"  # JSON: values given to `stpath run`, for the notebooks that this one needs
FOLDER_VARIABLE = "STPATH_RUN_FOLDER"  # the run folder that the runner made


class OutOfRange(StpathError, AssertionError):
    """A number of the virtual tissue, at default parameters, left the range that the notebook promises."""


@dataclass
class Run:
    """One run of one notebook, made by `begin`.

    Attributes
    ----------
    name, key : the notebook and the key of its outputs
    parameters : every parameter value, the profile's included
    folder : runs/<id>/, which holds the record and the figures
    stage : where this notebook writes the files that others read; moved to its final place by `done`
    """

    name: str
    key: str
    parameters: dict[str, Any]
    given: dict[str, Any]
    folder: Path
    stage: Path
    notebook: stages.Notebook
    metrics: dict[str, float | None] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    needed: dict[str, str] = field(default_factory=dict)
    seconds_in_needed: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def strict(self) -> bool:
        """Whether `expect` raises: the virtual tissue, the cpu profile, default parameters, any seed."""
        p = self.parameters
        return p["dataset"] == "virtual" and p["profile"] == "cpu" and not set(self.given) - stages.FREE

    def inputs(self, name: str, **changes: Any) -> Path:
        """The folder of another notebook's outputs, for the same data set, seed, profile and shared parameters.

        The notebook is run first when its outputs are missing. `changes` replaces values:
        `run.inputs("11_nuclei_train", dataset="virtual", data_dir="")` asks for the network trained on the virtual
        tissue whatever this notebook runs on.
        """
        other = stages.find_notebook(name)
        if other.name not in self.notebook.needs:
            msg = f"{self.name} asks for {other.name}; name it under `needs:` in the header of {self.name}.py"
            raise InputError(msg)
        given = {**self.given, **stages.shared(self.parameters, self.given, other), **changes}
        key = stages.stage_key(other, given)
        folder = stages.stage_folder(other, key)
        if stages.read_marker(folder) is None:
            begun = time.monotonic()
            self._make(other, {k: v for k, v in given.items() if k in other.parameters and v is not None})
            self.seconds_in_needed += time.monotonic() - begun
        elif not stages.read_marker(folder)["exact"]:
            print(f"{other.name}: from a session whose cells differ from notebooks/{other.name}.py")
        self.needed[other.name] = key
        return folder

    def resumable(self, name: str) -> Path:
        """Where long work keeps its state: the same file for every run with the same inputs, code and parameters.

        So a run that was interrupted is taken up by the next one. Whoever finishes the work removes the file.
        """
        return stages.cache_folder() / "resume" / f"{self.name}-{self.key}-{name}.safetensors"

    def figure(self, name: str, drawn: Any) -> None:
        """Save a matplotlib figure, or the figure of an Axes, as figures/<name>.png of this run."""
        figure = getattr(drawn, "figure", drawn)
        with atomic_path(self.folder / "figures" / f"{name}.png") as aside:
            figure.savefig(aside, dpi=110, bbox_inches="tight")

    def done(self) -> None:
        """End the run: outputs to their place, metrics.json and manifest.json written, runs/latest merged."""
        exact = session.as_written(self.notebook)
        outputs, final = stages.fingerprint(self.stage), stages.stage_folder(self.notebook, self.key)
        record = {"notebook": self.name, "run": self.folder.name, "exact": exact, "finished": now()}
        if exact or not (stages.read_marker(final) or {"exact": False})["exact"]:
            with atomic_folder(final) as aside:
                for item in self.stage.iterdir():
                    shutil.move(item, aside / item.name)
                manifest.write_json(aside / stages.MARKER, record)
        shutil.rmtree(self.stage.parent, ignore_errors=True)
        self.stage = final
        self._write(
            status="complete", exact=exact, outputs=outputs, finished=record["finished"], used=record["finished"]
        )
        latest.merge(self.folder.parent)
        if not exact:
            print(f"Recorded in {_shown(self.folder)}, not merged: the cells are not those of {self.name}.py.")

    def _make(self, other: stages.Notebook, values: dict[str, Any]) -> None:
        """Run another notebook in a process of its own."""
        say = replaced_line()
        say(f"{other.name}: its outputs are missing, running it first ...")
        words = [sys.executable, "-m", "stpath_core", "run", other.name, "--out", str(self.folder.parent)]
        words += [w for k, v in values.items() if k != "out" for w in ("-p", f"{k}={as_text(v)}")]
        environment = {k: v for k, v in os.environ.items() if k != FOLDER_VARIABLE}
        environment[GIVEN_VARIABLE] = json.dumps(self.given)
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
        )
        begun, lines = time.monotonic(), []
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(words, env=environment, **pipes) as child:
            try:
                for line in child.stdout:
                    lines.append(line.rstrip())
                    say(f"{other.name}: {line.strip()}")
            except BaseException:  # an interrupt above all: what was started for us ends with us
                child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(10)
                child.kill()
                raise
        if child.returncode:
            say(f"{other.name}: failed", ended=True)
            msg = f"{other.name}, which {self.name} needs, failed:\n" + "\n".join(lines[-15:])
            raise StpathError(msg)
        say(f"{other.name}: its outputs were missing, made in {time.monotonic() - begun:.0f} s", ended=True)

    def _write(self, **changes: Any) -> None:
        """Write metrics.json and manifest.json."""
        p = self.parameters
        content = manifest.read_json(self.folder / "manifest.json") | {
            "needs": self.needed,
            "expectations": self.checks,
            "device": manifest.used_device(p["device"]),
            "seconds": round(time.monotonic() - self.started - self.seconds_in_needed, 1),
            "seconds_in_needed": round(self.seconds_in_needed, 1),
            "peak": manifest.peak_memory_gb(),
        }
        manifest.write_json(self.folder / "metrics.json", self.metrics)
        manifest.write_json(self.folder / "manifest.json", content | changes)


_current: Run | None = None


def escape_styled_tables() -> None:
    """What data are named (a gene, a file) stays text in the cells of styled tables, as it does in plain ones."""
    import pandas as pd

    pd.set_option("styler.format.escape", "html")


def begin(name: str, variables: MutableMapping[str, Any]) -> Run:
    """Check the parameters, fill in what the profile decides, and open the run's folder.

    name : the notebook, as its file is called without the ending
    variables : the notebook's `globals()`; resolved values are written back into it

    From then on cells that are only for other data sets are passed over (`session.skip_cells_of_other_data`). Raises
    InputError for a parameter that the notebook does not declare, a wrong type, an unknown profile, or a data set that
    the notebook cannot serve.
    """
    global _current
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm misses widgets; our bars need none
    escape_styled_tables()
    notebook = stages.find_notebook(name)
    injected = session.injected_names()
    refuse_unknown(injected, notebook.parameters, where=notebook.name)
    here = {k: variables[k] for k in notebook.parameters if k in variables}
    given = {k: v for k, v in here.items() if v is not None and (k in injected or v != notebook.parameters[k].default)}
    if given.get("data_dir"):
        given["data_dir"] = str(stages.absolute(given["data_dir"]))
    values = notebook.resolve(given)
    refuse_dataset(notebook, values["dataset"])
    check_values(values, given)
    session.skip_cells_of_other_data(values["dataset"])
    variables.update(values)
    given = json.loads(os.environ.get(GIVEN_VARIABLE) or "{}") | given
    key = stages.stage_key(notebook, given)
    folder = _open_folder(notebook, values)
    _current = Run(notebook.name, key, values, given, folder, _open_stage(notebook, key), notebook)
    content = {
        "id": folder.name, "notebook": notebook.name, "dataset": values["dataset"], "profile": values["profile"],
        "seed": values["seed"], "status": "running", "begun": now(), "parameters": values, "given": given,
        "stage": key,
        "data": stages.fingerprint(values["data_dir"]) if values["data_dir"] else {},
        "versions": manifest.versions(), "git": manifest.git_revision(stages.home()), "machine": manifest.machine(),
    }  # fmt: skip
    manifest.write_json(folder / "manifest.json", content)
    return _current


def refuse_dataset(notebook: stages.Notebook, dataset: str) -> None:
    """Raise InputError when the notebook cannot serve a data set, naming the notebooks that can."""
    if not notebook.serves(dataset):
        able = [n for n in stages.notebook_names() if stages.find_notebook(n).serves(dataset)]
        served = " or ".join(notebook.header["datasets"])
        use = datasets.how_to_use(dataset) if all(n.startswith("01") for n in able) else ""
        msg = f"{notebook.name} runs on dataset={served}; for {dataset} run {', '.join(able) or 'none'}"
        msg += f": {use}" if use else ""
        raise InputError(msg)


def expect(key: str, value: float, low: float, high: float, why: str) -> None:
    """Record a number and the range it must lie in, both ends included.

    key : dotted name; from real data it carries the data set's name (`part1.monuseg.aji`)
    why : what it would mean if the number lay outside

    Raises OutOfRange only for the virtual tissue at the cpu profile with default parameters (any seed). At smoke it
    must be finite; elsewhere the line says "outside the range seen on the virtual tissue".
    """
    run = _running()
    number = _plain(value)
    inside = number is not None and low <= number <= high
    run.metrics[key] = number
    run.checks.append({"key": key, "value": number, "low": low, "high": high, "inside": inside, "why": why})
    line = f"{key} = {_text(number)}   (expected {_text(low)} to {_text(high)})"
    smoke = run.parameters["profile"] == "smoke"
    if (run.strict and not inside) or (smoke and number is None):
        run._write()
        msg = f"{line}: {why}"
        raise OutOfRange(msg)
    if not inside and not smoke:
        line += f"   outside the range seen on the virtual tissue: {why}"
    print(line)


def report(key: str, value: float | None, lo: float | None = None, hi: float | None = None) -> None:
    """Record a number, with its 95 % interval when there is one. Undefined (None or NaN) is recorded as null."""
    run = _running()
    run.metrics[key] = _plain(value)
    line = f"{key} = {_text(run.metrics[key])}"
    if lo is not None or hi is not None:
        run.metrics[f"{key}.lo"], run.metrics[f"{key}.hi"] = _plain(lo), _plain(hi)
        line += f"   [{_text(_plain(lo))}, {_text(_plain(hi))}]"
    print(line)


def _running() -> Run:
    if _current is None:
        msg = "nothing is being recorded; call `run = begin(notebook_name, globals())` first"
        raise InputError(msg)
    return _current


def _plain(value: Any) -> float | None:
    """A number as JSON knows it; None for None, NaN and infinities."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def now() -> str:
    """The time, UTC, to the millisecond: sorts as text."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _shown(path: Path) -> str:
    """A path as a reader types it: relative to the project when it lies inside."""
    return str(path.relative_to(stages.home())) if path.is_relative_to(stages.home()) else str(path)


def _open_folder(notebook: stages.Notebook, values: dict[str, Any]) -> Path:
    """The folder that the runner made, or a new one with a name of its own."""
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE])
    return new_folder(notebook, values)


def new_folder(notebook: stages.Notebook, values: dict[str, Any]) -> Path:
    """Make runs/<time>-<notebook>-<dataset>-<profile>-s<seed>/, with a number behind when that exists."""
    runs = stages.runs_folder(values["out"])
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    words = f"{notebook.name}-{values['dataset']}-{values['profile']}-s{values['seed']}"
    name = f"{stamp}-{re.sub(r'[^A-Za-z0-9._-]', '_', words)}"  # no value leads out of the folder
    for suffix in ["", *(f"-{i}" for i in range(2, 1000))]:
        with contextlib.suppress(FileExistsError):
            folder = runs / f"{name}{suffix}"
            folder.mkdir(parents=True)
            return folder
    msg = f"cannot make a new folder {name} in {runs}"
    raise StpathError(msg)


def _open_stage(notebook: stages.Notebook, key: str) -> Path:
    """An empty folder to fill, beside the final one; those of processes of this machine that have ended are removed."""
    import psutil

    parent = stages.cache_folder() / "stages" / notebook.name
    host = socket.gethostname()
    for old in parent.glob(f".filling-{host}-*"):
        pid = int(old.name.rpartition("-")[2])
        if pid == os.getpid() or not psutil.pid_exists(pid):
            shutil.rmtree(old, ignore_errors=True)
    folder = parent / f".filling-{host}-{os.getpid()}" / key
    folder.mkdir(parents=True)
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    return folder
