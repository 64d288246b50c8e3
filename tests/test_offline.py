"""`stpath bundle`: whole or not at all, from the last commit, and installed from its folder without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from conftest import ROOT
from stpath_core import cli, lock, manifest, offline, run, stages
from stpath_core.errors import InputError

PYPROJECT = '[project]\nname = "toy"\nversion = "0"\n'
# In place of python: tells what it was called with, and makes an environment whose commands do the same.
PYTHON = """\
#!/bin/sh
case "$*" in *version_info*|*as_uri*) exec "$REAL" "$@";; esac
echo "$(basename "$0") $* | index=${PIP_NO_INDEX:-any} links=${PIP_FIND_LINKS:-none}" >> "$CALLS"
[ "${2:-}" != venv ] || { mkdir -p .venv/bin; for name in python stpath; do cp "$0" .venv/bin/$name; done; }
"""


def wheel(folder, name, version):
    """The smallest wheel that pip takes."""
    folder.mkdir(exist_ok=True)
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "x = 1\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as packed:
        for path, text in files.items():
            packed.writestr(path, text)


def git(folder, *words):
    who = {f"GIT_{role}_{key}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    base = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    subprocess.run(["git", *words], cwd=folder, env=base | who, check=True, capture_output=True)


@pytest.fixture
def project(toys, tmp_path, monkeypatch):
    """A committed project of one notebook and one package, which pip finds in a folder."""
    toys.add("11_one", "x = 1")
    home = toys.folder
    shutil.copy(ROOT / "Makefile", home)
    (home / "requirements.lock").write_text("toything==1.5\n")
    (home / "pyproject.toml").write_text(PYPROJECT)
    (home / ".gitignore").write_text("/runs/\n/data/\n/build/\n")
    git(home, "init", "-q")
    git(home, "add", "-A")
    git(home, "commit", "-qm", "all")
    wheel(tmp_path / "links", "toything", "1.5")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    return home


def test_a_bundle_is_packed_with_its_sizes_said_first_and_installed_from_its_folder(project, tmp_path, capfd):
    (project / "build" / "book" / "html").mkdir(parents=True)
    (project / "build" / "book" / "html" / "index.html").write_text("<p>the book</p>")
    stage = run.plan(["11"], {"profile": "cpu"})[0].stage
    stage.mkdir(parents=True)
    (stage / stages.MARKER).write_text("{}")
    (stage / "x.txt").write_text("computed before")
    (stage.parent / "0123456789abcdef").mkdir()  # of other code: not packed
    room = tmp_path / "the room"  # with a space
    assert cli.main(["bundle", str(room)]) == cli.OK
    out = capfd.readouterr().out
    assert out.index("packages   1 wheels") < out.index("toything-1.5") < out.index("wrote ")
    told = manifest.read_json(room / offline.MANIFEST)
    assert told["wheels"].keys() == {"toything-1.5-py3-none-any.whl"}
    assert told["computed"] == [f"11_one/{stage.name}"]
    assert told["bytes"] > sum(told["wheels"].values())
    with tarfile.open(room / "project.tar.gz") as packed:
        assert {"Makefile", "notebooks/11_one.py"} <= set(packed.getnames())
    assert not (room / "course" / "instructor").exists()

    fake, calls, to = tmp_path / "fake", tmp_path / "calls", tmp_path / "fresh"
    fake.write_text(PYTHON)
    fake.chmod(0o755)
    words = ["sh", str(room / "install.sh"), str(to)]
    base = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "MAKE", "STPATH_"))}
    base |= {"PYTHON": str(fake), "CALLS": str(calls), "REAL": sys.executable}
    subprocess.run(words, env=base, check=True, capture_output=True, cwd=tmp_path)
    lines = calls.read_text().splitlines()
    links = f"index=1 links={(room / 'wheels').as_uri()}"
    pip = [line for line in lines if "-m pip install" in line]
    assert len(pip) == 2
    assert all(line.endswith(links) for line in pip)
    assert [line.partition(" |")[0] for line in lines[-2:]] == ["stpath doctor", "stpath run 11 --profile smoke"]
    assert (to / "course" / "student" / "11_one.ipynb").is_file()
    assert (to / "build" / "book" / "html" / "index.html").is_file()
    assert (to / "data" / "cache" / "stages" / "11_one" / stage.name / "x.txt").read_text() == "computed before"
    again = subprocess.run(words, env=base, check=False, capture_output=True, text=True)
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_another_python_than_that_of_the_packages_is_refused_before_anything_is_made(tmp_path):
    here = {"python": "2.6", "system": "Linux", "machine": "x86_64", "smoke": "11", "disk": "1 GB"}
    (tmp_path / "install.sh").write_text(offline.INSTALL.format(**here))
    done = subprocess.run(
        ["sh", str(tmp_path / "install.sh"), str(tmp_path / "to")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "for Python 2.6 Linux" in done.stderr
    assert not (tmp_path / "to").exists()


def test_a_package_that_pip_cannot_get_leaves_nothing(project, tmp_path, capsys):
    (tmp_path / "links" / "toything-1.5-py3-none-any.whl").unlink()
    assert cli.main(["bundle", str(tmp_path / "room")]) == cli.FAILED
    assert "pip could not get every package" in capsys.readouterr().err
    assert not (tmp_path / "room").exists()
    assert not list(tmp_path.glob(".writing-*"))


def test_what_is_not_committed_or_not_a_clone_or_not_a_bundle_is_refused(project, tmp_path, capsys):
    taken = tmp_path / "thesis"
    taken.mkdir()
    (taken / "chapter.txt").write_text("mine")
    assert cli.main(["bundle", str(taken)]) == cli.USAGE
    assert (taken / "chapter.txt").read_text() == "mine"
    (project / "pyproject.toml").write_text(PYPROJECT + "\n")
    assert cli.main(["bundle", str(tmp_path / "room")]) == cli.USAGE
    shutil.rmtree(project / ".git")
    assert cli.main(["bundle", str(tmp_path / "room")]) == cli.USAGE
    said = capsys.readouterr().err.splitlines()
    assert ["something else" in said[0], "commit them first" in said[1], "no git clone" in said[2]] == [True] * 3
    assert not (tmp_path / "room").exists()


def test_a_disk_that_cannot_hold_it_is_refused_before_anything_is_fetched(tmp_path):
    found = offline.Contents("0" * 40, ["11_one"], None, [], 280, 10**16)
    said = []
    with pytest.raises(InputError, match="give another disk"):
        offline.tell(found, tmp_path / "not" / "there", say=said.append)
    assert any("280 wheels, less than 10000000.0 GB" in line for line in said)


def test_sizes_of_the_real_lock_are_known_without_a_network():
    names = lock.here(ROOT / "requirements.lock")
    assert offline.installed_size("numpy") > 10**7
    assert sum(map(offline.installed_size, names)) > 10**9
    assert offline.installed_size("no-such-package") == 0
