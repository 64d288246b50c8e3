"""Doctor finds what is wrong, names the fix, and its exit code says whether anything must be mended."""

from __future__ import annotations

import shutil
from collections import namedtuple

from conftest import VERSIONS
from stpath_core import cli, doctor, lock
from stpath_core.doctor import Finding

NAMES = {"python", "packages", "torch", "memory", "disk", "write access", "kernel", "notebooks"}


def test_doctor_on_this_machine(capsys, monkeypatch):
    monkeypatch.delenv("STPATH_HOME", raising=False)
    code = cli.main(["doctor"])
    said = capsys.readouterr().out
    assert {name for name in NAMES if f" {name} " in said} == NAMES
    assert code == (cli.FAILED if "to mend" in said else cli.OK)
    if VERSIONS == "locked":
        assert "ok   packages" in said, "this environment does not follow requirements.lock: `make env`"
    assert "on the CPU" in said or "--profile gpu" in said


def test_exit_code_and_fix(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("disk", "bad", "full", "make clean")])
    assert cli.main(["doctor"]) == cli.FAILED
    assert "-> make clean" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("disk", "note", "small", "make clean")])
    assert cli.main(["doctor"]) == cli.OK


def test_old_python_is_found(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 2))
    assert [(f.level, "PYTHON=" in f.fix) for f in doctor._python()] == [("bad", True)]


def test_packages_that_differ_from_the_lock_are_found(toys):
    (toys.folder / "requirements.lock").write_text("numpy==1.0.0\nabsent-package==2.0 # comment\n")
    assert len(lock.differences(toys.folder / "requirements.lock")) == 2
    finding = next(iter(doctor._packages()))
    assert finding.level == "bad"
    assert "absent-package is missing; the lock has ==2.0" in finding.said
    (toys.folder / "requirements.lock").write_text("numpy==1.0.0\nwindows-thing==1 ; platform_system == 'Windows'\n")
    assert next(iter(doctor._packages())).level == "note"


def test_broken_torch_is_found_with_its_last_line(monkeypatch):
    class Done:
        returncode, stdout, stderr = 1, "", "Traceback\nRuntimeError: operator torchvision::nms does not exist\n"

    monkeypatch.setattr(doctor, "_python_says", lambda program: Done)
    finding = next(iter(doctor._torch()))
    assert (finding.level, finding.said) == ("bad", "RuntimeError: operator torchvision::nms does not exist")


def test_full_disk_is_found(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10**8))
    assert {finding.level for finding in doctor._disk()} == {"bad"}


def test_folder_that_cannot_be_written_is_found(toys):
    toys.folder.joinpath("runs").write_text("a file where a folder is needed")
    levels = {finding.said.partition(":")[0]: finding.level for finding in doctor._write()}
    assert sorted(levels.values()) == ["bad", "ok"]


def test_missing_notebooks_are_found(toys):
    assert next(iter(doctor._project())).level == "bad"
    toys.add("10_one")
    assert next(iter(doctor._project())).level == "ok"


def test_checks_leave_nothing_behind(toys):
    assert {finding.level for finding in doctor._write()} == {"ok"}
    assert not [path for path in toys.folder.rglob("*") if path.is_file() and path.suffix != ".yaml"]
