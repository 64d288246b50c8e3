"""CI runs what the README promises; make's targets are what MEASURES says; nothing calls a system package manager."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from conftest import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
TARGETS = {
    "tutorial",
    "test",
    "test-deep",
    "test-minimum",
    "lint",
    "real",
    "bench",
    "lab",
    "book",
    "sync",
    "notebooks",
    "clean",
    "help",
}


def commands(job):
    return [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


def make(*words, folder=ROOT, **environment):
    base = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "STPATH_", "FRESH"))}
    return subprocess.run(
        ["make", *words], cwd=folder, capture_output=True, text=True, check=False, env=base | environment
    )


@pytest.fixture
def clone(tmp_path):
    """What make reads, in a folder without an environment."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "requirements-minimum.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    return folder


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_readme_has_exactly_the_two_commands():
    block = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert [line.partition("#")[0].strip() for line in block.strip().splitlines()] == ["make tutorial", "make test"]


def test_workflow_runs_what_ci_run_runs():
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert lines[-1] == "make test"
    assert commands("test") == ["bash .ci/run"]


def test_schedule_runs_the_cpu_profile_and_only_it():
    triggers = WORKFLOW[True]  # YAML 1.1 reads the key `on` as a boolean
    assert triggers["schedule"]
    assert commands("tutorial") == ["make tutorial FRESH=1"]
    assert WORKFLOW["jobs"]["tutorial"]["if"] == "github.event_name == 'schedule'"
    assert WORKFLOW["jobs"]["test"]["if"] == "github.event_name != 'schedule'"


def test_schedule_tests_the_newest_versions_that_pyproject_allows():
    job = WORKFLOW["jobs"]["newest"]
    assert job["if"] == "github.event_name == 'schedule'"
    assert commands("newest")[0] == 'python -m pip install -e ".[notebooks,book,dev]"'
    assert "requirements" not in "".join(commands("newest"))
    assert commands("newest")[-1] == "python -m pytest"
    assert job["env"] == {"STPATH_VERSIONS": "newest"}  # the tests of a lock stay out


def test_workflow_can_only_read():
    assert WORKFLOW["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("there", [True, False])
def test_ci_run_uses_the_real_data_beside_the_repository(clone, there):
    bin_folder = clone.parent / "bin"
    bin_folder.mkdir()
    script(bin_folder / "make", 'echo "make $* in $PWD with ${STPATH_REAL_DATA:-nothing}"')
    real = clone.parent / "shared" / "real"
    if there:
        real.mkdir(parents=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("STPATH_REAL_DATA", "CI")}
    environment["PATH"] = f"{bin_folder}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", str(clone / ".ci" / "run")], cwd="/", env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"make test in {clone} with {real if there else 'nothing'}"


def test_ci_run_fails_when_the_tests_fail(clone):
    bin_folder = clone.parent / "bin"
    bin_folder.mkdir()
    script(bin_folder / "make", "exit 3")
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "CI": ""}
    assert subprocess.run(["bash", str(clone / ".ci" / "run")], env=environment, check=False).returncode == 3


def test_help_is_the_default_and_names_every_target():
    said = make().stdout
    assert said == make("help").stdout
    assert {line.split()[0] for line in said.splitlines()[1:]} >= TARGETS


def test_tutorial_reuses_unless_fresh():
    line = "stpath run all --reuse --profile cpu"
    assert line in make("-n", "tutorial").stdout
    assert "--reuse" not in make("-n", "tutorial", "FRESH=1").stdout
    assert "stpath report" in make("-n", "tutorial").stdout


def test_test_target_checks_style_then_runs_everything():
    said = make("-n", "test").stdout
    assert said.index("ruff check .") < said.index("pytest")


def test_deep_tests_install_the_minimum_lock_in_its_own_folder_and_leave_no_record_half_way(clone):
    said = make("-n", "test-deep", folder=clone).stdout
    install = ".venv-minimum/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-minimum.lock"
    suite = "STPATH_VERSIONS=minimum STPATH_SUITE_RECORD=data/results/test_minimum.json"
    at = [said.index(part) for part in ("STPATH_FUZZ_RECORD=build/", install, suite, "mv build/test_deep.json")]
    assert at == sorted(at), "a record that lies in its place changes the revision that the next one names"


def test_setup_says_its_disk_need_first_and_installs_from_the_lock_alone(clone):
    said = make("-n", "tutorial", folder=clone).stdout
    assert said.index("8 GB") < said.index("venv .venv") < said.index("-r requirements.lock")
    assert "--no-deps --no-build-isolation -e ." in said
    assert "index-url" not in said


def test_setup_is_done_once_per_lock(clone):
    python = script(
        clone / "fakepython",
        'echo "$*" >> calls; [ "$2" = venv ] && mkdir -p .venv/bin && cp "$0" .venv/bin/python; exit 0',
    )
    assert make("env", f"PYTHON={python}", folder=clone).returncode == 0
    calls = (clone / "calls").read_text()
    assert "pip install" in calls
    assert "ipykernel install --sys-prefix" in calls
    make("env", f"PYTHON={python}", folder=clone)
    assert (clone / "calls").read_text() == calls
    (clone / "requirements.lock").write_text("numpy==0\n")
    make("env", f"PYTHON={python}", folder=clone)
    assert (clone / "calls").read_text() != calls


def test_failed_setup_is_not_taken_for_done(clone):
    python = script(
        clone / "fakepython",
        'case "$*" in *"pip install"*) exit 1;; *venv*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac',
    )
    assert make("env", f"PYTHON={python}", folder=clone).returncode != 0
    assert make("env", f"PYTHON={python}", folder=clone).returncode != 0


def test_old_python_gets_one_clear_error(clone):
    old = script(clone / "old", '[ "$1" = --version ] && echo Python 3.9.1 && exit 0; exit 1')
    done = make("test", f"PYTHON={old}", folder=clone)
    assert done.returncode != 0
    assert "needs CPython 3.11 or newer" in done.stderr
    assert "Python 3.9.1" in done.stderr
    assert not (clone / ".venv").exists()


def test_real_needs_its_data_before_anything_is_set_up(clone):
    done = make("real", "PYTHON=/nonexistent/python", folder=clone)
    assert done.returncode != 0
    assert "STPATH_REAL_DATA" in done.stderr
    assert not (clone / ".venv").exists()
    (clone / "real" / "monuseg").mkdir(parents=True)
    said = make("-n", "real", folder=clone, STPATH_REAL_DATA=str(clone / "real")).stdout
    assert f'-p data_dir="{clone}/real/monuseg"' in said


def test_clean_keeps_the_environment(clone):
    for name in (".venv", "runs", "data/cache", "data/downloads", "stpath_core/__pycache__", "tests", "notebooks"):
        (clone / name).mkdir(parents=True)
    assert make("clean", folder=clone).returncode == 0
    assert (clone / ".venv").exists()
    assert (clone / "data" / "downloads").exists()
    assert not (clone / "runs").exists()
    assert not (clone / "data" / "cache").exists()
    assert not (clone / "stpath_core" / "__pycache__").exists()


@pytest.mark.parametrize(("ci", "uid", "called"), [("true", "0", True), ("", "0", False), ("true", "1000", False)])
def test_ci_run_brings_a_browser_only_as_root_on_ci(clone, ci, uid, called):
    bin_folder = clone.parent / "bin"
    bin_folder.mkdir()
    for name in ("dirname", "bash"):
        (bin_folder / name).symlink_to(shutil.which(name))
    script(bin_folder / "id", f"echo {uid}")
    script(bin_folder / "apt-get", 'echo "apt-get $*" >&2')
    script(bin_folder / "make", 'echo "make $*, browser ${STPATH_BROWSER:-as it is}"')
    environment = {"PATH": str(bin_folder), "CI": ci}
    words = [str(bin_folder / "bash"), str(clone / ".ci" / "run")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"make test, browser {'required' if called else 'as it is'}"
    assert ("install --yes" in done.stderr) == called


def test_no_system_package_manager_is_called():
    """None in what a user calls; .ci/run calls one as root on CI alone (see above)."""
    managers = re.compile(r"\b(sudo|apt|apt-get|dnf|yum|brew|pacman|conda|snap)\b")
    for name in ("Makefile", ".github/workflows/ci.yml"):
        assert not managers.search((ROOT / name).read_text()), name
    guarded = re.sub(r'^if \[ "\$\{CI:-\}" = true \].*?^fi$', "", (ROOT / ".ci" / "run").read_text(), flags=re.M | re.S)
    assert not managers.search(guarded)


def test_readme_tells_the_time_and_memory_that_the_notebooks_measured():
    readme = (ROOT / "README.md").read_text()
    told = re.findall(r"^\| (\d\d_\w+) \|[^|]*\| ([^|]+) \| ([^|]+) \|$", readme, re.MULTILINE)
    measured = []
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.py")):
        header = path.read_text()
        parts = [re.search(rf"^# {word}: ([\d.]+ \w+)", header, re.MULTILINE)[1] for word in ("time", "memory")]
        measured.append((path.stem, *parts))
    assert told == measured
