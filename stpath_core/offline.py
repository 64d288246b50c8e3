"""One folder that brings the project into a room without a network: sources, packages, lessons, what was computed.

The packages are wheels for the system and the Python that build the bundle, so it is built on a machine like those in
the room. `install.sh` in it does what `make env` does, from the folder alone, and runs a notebook to prove it.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stpath_core import __version__, lock, manifest, run, stages, teach
from stpath_core.checks import check_folder
from stpath_core.errors import InputError, StpathError
from stpath_core.io.files import atomic_folder

MANIFEST = "bundle.json"
GB = 1e9

INSTALL = """\
#!/bin/sh
# Sets up stpath in a new folder, from what lies beside this file; no network is used. Takes a few minutes and {disk}.
#   sh install.sh [FOLDER]       FOLDER: where the project goes (default: stpath, here)
#   PYTHON=python{python} sh install.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
to=${{1:-stpath}}
python=${{PYTHON:-python3}}
wanted="{python} {system} {machine}"
found=$("$python" -c 'import platform as p, sys; print("%d.%d" % sys.version_info[:2], p.system(), p.machine())')
[ "$found" = "$wanted" ] || {{
    echo "the packages here are for Python $wanted; $python is $found: PYTHON=python{python} sh install.sh" >&2
    exit 2
}}
[ ! -e "$to" ] || {{ echo "$to is there already: give another folder" >&2; exit 2; }}
mkdir -p "$to"
tar -xzf "$here/project.tar.gz" -C "$to"
cp -R "$here/course" "$to/"
[ ! -d "$here/book" ] || {{ mkdir -p "$to/build/book" && cp -R "$here/book" "$to/build/book/html"; }}
[ ! -d "$here/stages" ] || {{ mkdir -p "$to/data/cache" && cp -R "$here/stages" "$to/data/cache/"; }}
PIP_FIND_LINKS=$("$python" -c 'import pathlib, sys; print(pathlib.Path(sys.argv[1]).as_uri())' "$here/wheels")
export PIP_FIND_LINKS PIP_NO_INDEX=1
cd "$to"
make env PYTHON="$python"
.venv/bin/stpath doctor
.venv/bin/stpath run {smoke} --profile smoke
echo "ready. In $(pwd): .venv/bin/jupyter lab course/student"
"""


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle, found before anything is fetched."""

    revision: str
    lessons: list[str]
    book: Path | None
    computed: list[Path]  # stage folders of the cpu profile that belong to the code as it is
    packages: int
    unpacked: int  # bytes of the packages as they are installed here: their wheels are smaller

    @property
    def at_most(self) -> int:
        """Bytes of disk that the bundle needs at most."""
        return self.unpacked + size_of(filter(None, [self.book, *self.computed]))


def find() -> Contents:
    """Look for everything. InputError outside a git clone, or where the last commit is not what lies here."""
    home = stages.home()
    told = manifest.git_revision(home)
    if not told:
        msg = f"{home} is no git clone; a bundle holds the last commit of one"
        raise InputError(msg)
    if told["changed"]:
        msg = f"files in {home} differ from the last commit, which is what a bundle holds: commit them first"
        raise InputError(msg)
    planned = run.plan(["all"], {"profile": "cpu"})
    computed = [one.stage for one in planned if stages.read_marker(one.stage) is not None]
    book = home / "build" / "book" / "html"
    wanted = lock.here(home / "requirements.lock")
    return Contents(
        told["revision"], stages.notebook_names(), book if (book / "index.html").is_file() else None, computed,
        len(wanted), sum(map(installed_size, wanted)),
    )  # fmt: skip


def tell(found: Contents, folder: Path, *, say: Callable[[str], None]) -> None:
    """Say what will be packed and how large it is; InputError when the disk cannot hold it."""
    book = f"{size_of([found.book]) / GB:.2f} GB" if found.book else "not built, so left out: `make book` makes it"
    computed = f"of {len(found.computed)} of {len(found.lessons)} notebooks, {size_of(found.computed) / GB:.2f} GB"
    if not found.computed:
        computed = "nothing of this code, so left out: `stpath run all --profile cpu` computes it"
    say(f"project    revision {found.revision[:12]}")
    say(f"lessons    {len(found.lessons)} notebooks, students' versions")
    say(f"book       {book}")
    say(f"computed   {computed}")
    say(f"packages   {found.packages} wheels, less than {found.unpacked / GB:.1f} GB (what they unpack to here)")
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < found.at_most:
        msg = f"the bundle may need {found.at_most / GB:.1f} GB, {there} has {free / GB:.1f} GB free: give another disk"
        raise InputError(msg)


def write(to: str | Path, *, say: Callable[[str], None] = print) -> Path:
    """Write the bundle to the folder `to`, whole or not at all. An older bundle there is replaced.

    Raises InputError for a folder that holds something else, and what `find` and `tell` refuse; StpathError when git
    cannot pack the commit or pip cannot get a wheel.
    """
    folder = stages.absolute(to)
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        msg = f"{folder} holds something else than a bundle: give a new folder"
        raise InputError(msg)
    found = find()
    tell(found, folder, say=say)
    with atomic_folder(folder) as aside:
        words = ["git", "archive", "--format=tar.gz", f"--output={aside / 'project.tar.gz'}", found.revision]
        if subprocess.run(words, cwd=stages.home(), check=False).returncode:
            msg = "git could not pack the last commit: it says above why, and nothing was written"
            raise StpathError(msg)
        teach.write(["all"], aside / "course", versions=(teach.student,), say=lambda _: None)
        if found.book:
            shutil.copytree(found.book, aside / "book")
        for stage in found.computed:
            shutil.copytree(stage, aside / "stages" / stage.parent.name / stage.name)
        fetch_wheels(stages.home() / "requirements.lock", aside / "wheels")
        _describe(aside, found)
    say(f"wrote {run.shown(folder)}, {size_of([folder]) / GB:.2f} GB. In the room: sh install.sh")
    return folder


def fetch_wheels(requirements: Path, folder: Path) -> None:
    """A wheel of every package of a lock, from wherever pip is set up to get them; what has no wheel is built here."""
    words = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--progress-bar", "off", "--no-deps"]
    done = subprocess.run([*words, "--requirement", str(requirements), "--wheel-dir", str(folder)], check=False)
    if done.returncode:
        msg = "pip could not get every package of requirements.lock: it says above which, and nothing was written"
        raise StpathError(msg)


def installed_size(name: str) -> int:
    """Bytes of a package's files as it is installed here, as its own record says; 0 when it is not."""
    try:
        files = importlib.metadata.distribution(name).files or ()
    except importlib.metadata.PackageNotFoundError:
        return 0
    return sum(file.size or 0 for file in files)


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of all files below these folders."""
    return sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file())


def _describe(folder: Path, found: Contents) -> None:
    """Write install.sh and bundle.json."""
    here = {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    smoke = next((name[:2] for name in found.lessons if name.startswith("11")), found.lessons[0][:2])
    disk = f"{(found.unpacked + size_of(found.computed)) / GB:.0f} GB of disk"
    (folder / "install.sh").write_text(INSTALL.format(**here, smoke=smoke, disk=disk), encoding="utf-8")
    wheels = {path.name: path.stat().st_size for path in sorted((folder / "wheels").glob("*.whl"))}
    told = {"version": __version__, "revision": found.revision, **here, "lessons": found.lessons}
    told |= {"book": found.book is not None, "computed": [f"{path.parent.name}/{path.name}" for path in found.computed]}
    manifest.write_json(folder / MANIFEST, told | {"wheels": wheels, "bytes": size_of([folder])})
