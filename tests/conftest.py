"""What tests share: a project home of toy notebooks, and the real files where there are any."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import hypothesis
import pytest

from stpath_core import cli, lock, manifest, record

ROOT = Path(__file__).parents[1]
# What the environment was installed from: locked, minimum (requirements-minimum.lock) or newest (pyproject.toml alone).
VERSIONS = os.environ.get("STPATH_VERSIONS", "locked")
if "PYTEST_XDIST_WORKER" in os.environ:  # several workers share the cores: a thread each, or they wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Files whose tests go to one worker, the longest first; every other file is a group of its own, for its fixtures' sake.
GROUPS = {"test_notebooks": "notebooks", "test_book": "book", "test_browser": "book"}
# The same examples on every machine, however slow it is: what fails here fails there.
hypothesis.settings.register_profile("stable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("stable")
NO_NETWORK = Path(__file__).parent / "no_network"

TOY = """\
# ---
# title: Toy {name}
# part: 1
# goals: [run a toy]
# needs: [{needs}]
{header}# reads: []
# writes: [x.txt]
# time: 1 s
# memory: 1 GB
# ---

# %% [markdown]
# # Toy {name}

# %% tags=["parameters"]
dataset: str = "virtual"  # registry name
data_dir: str = ""  # folder of your own data
seed: int = 0  # tissue and training seed
device: str = "auto"  # auto, cpu or cuda
profile: str = "cpu"  # smoke, cpu or gpu
out: str = ""  # where runs are kept
{parameters}

# %%
from stpath_core.record import begin, expect, report

run = begin("{name}", globals())

# %%
{body}

# %%
run.done()
"""


def started(words: list[str], **options) -> subprocess.Popen:
    """A process that hears an interrupt; a shell's background jobs, and what they start, are deaf to it."""
    return subprocess.Popen(words, preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL), **options)


def wait_until(true, seconds: float) -> bool:
    """Whether `true()` came true in that time."""
    end = time.monotonic() + seconds
    while not (come := true()) and time.monotonic() < end:
        time.sleep(0.1)
    return come


def interrupt(process: subprocess.Popen) -> None:
    """Ctrl-C for a command of ours (started with stderr=PIPE, text=True): it ends, says so, and shows no traceback."""
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == cli.INTERRUPTED
    assert "Traceback" not in said


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell pytest-xdist which tests belong together, and begin with the groups that take longest."""
    order = {group: k for k, group in enumerate(dict.fromkeys(GROUPS.values()))}
    group_of = {item: GROUPS.get(item.path.stem, item.path.stem) for item in items}
    for item, group in group_of.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: order.get(group_of[item], len(order)))  # stable: files stay in their order


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How the suite ended and on which versions, where STPATH_SUITE_RECORD names a file for it."""
    path = os.environ.get("STPATH_SUITE_RECORD")
    if not path:
        return
    ended = {word: len(terminalreporter.stats.get(word, ())) for word in ("passed", "failed", "error")}
    skipped = {report.nodeid: report.longrepr[-1] for report in terminalreporter.stats.get("skipped", ())}
    named = sorted(lock.canonicalize_name(one.name) for one in lock.wanted(ROOT / "pyproject.toml"))
    about = ended | {"skipped": skipped, "packages": {name: importlib.metadata.version(name) for name in named}}
    about |= manifest.machine() | {"python": platform.python_version(), "versions": VERSIONS}
    about |= {"day": time.strftime("%Y-%m-%d"), "git": manifest.git_revision(ROOT)}
    manifest.write_json(Path(path), about)


class ToyHome:
    """A folder with notebooks, as STPATH_HOME points to one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.profiles({"smoke": "all: {}", "cpu": "all: {}"})

    def profiles(self, texts: dict[str, str]) -> None:
        for name, text in texts.items():
            path = self.folder / "notebooks" / "params" / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def add(self, name: str, body: str = "", *, needs: str = "", parameters: str = "", header: str = "") -> Path:
        path = self.folder / "notebooks" / f"{name}.py"
        path.write_text(TOY.format(name=name, body=body, needs=needs, parameters=parameters, header=header))
        return path

    @property
    def runs(self) -> list[Path]:
        return sorted(p.parent for p in (self.folder / "runs").glob("*/manifest.json"))


@pytest.fixture(autouse=True)
def as_many_threads_as_children_have():
    """A library with threads of its own can set how many torch takes; the last digits depend on it, and children of a
    test go by the environment."""
    if "torch" in sys.modules and (said := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        sys.modules["torch"].set_num_threads(int(said))


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A project home without notebooks, in a temporary folder."""
    for name in ("STPATH_CACHE", record.FOLDER_VARIABLE, record.GIVEN_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STPATH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "_current", None)
    return ToyHome(tmp_path / "home")


@pytest.fixture
def no_network(monkeypatch):
    """Child processes can reach this machine only."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NO_NETWORK), str(ROOT)]))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files, or a skip."""
    folder = Path(os.environ.get("STPATH_REAL_DATA", ""))
    if not os.environ.get("STPATH_REAL_DATA"):
        pytest.skip("STPATH_REAL_DATA is not set")
    assert folder.is_dir(), f"STPATH_REAL_DATA={folder} does not exist"
    return folder.resolve()


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    """The pages of the book, built once for all tests, cut off the network."""
    target = tmp_path_factory.mktemp("book") / "book"
    environment = {k: v for k, v in os.environ.items() if k not in ("STPATH_HOME", "STPATH_CACHE")}
    environment["PYTHONPATH"] = os.pathsep.join([str(NO_NETWORK), str(ROOT)])
    words = [sys.executable, "-m", "docs.tools.build", str(target)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return target / "html"
