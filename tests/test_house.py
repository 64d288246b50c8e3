"""The house: adding a notebook works as told, measures come from runs, and what surrounds the code is well formed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from conftest import ROOT
from stpath_core import __version__, cli, pairing

LINES = re.search(r"^```sh\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)[
    1
].splitlines()
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
README = "# Home\n\n| notebook | asks | time | memory |\n|---|---|---|---|\n{rows}\nThe end | of it |\n"


@pytest.fixture
def clone(tmp_path):
    """The project without its notebooks, under git, with this environment in place of .venv."""
    folder = tmp_path / "clone"
    leave_out = shutil.ignore_patterns("__pycache__", "cache", "downloads", "[0-9]*.py", "*.ipynb")
    for name in ("stpath_core", "tests", "docs", "data", "notebooks", ".ci", ".github"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":  # a file in a linked worktree
            shutil.copy(path, folder)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name, words in {"python": "", "ruff": " -m ruff", "stpath": " -m stpath_core"}.items():
        script = folder / ".venv" / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable}{words} "$@"\n')
        script.chmod(0o755)
    return folder


def shell(line, folder):
    """Run one line as a contributor would, with the library of `folder`."""
    base = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "STPATH_", "PYTEST_", "GIT_"))}
    who = {f"GIT_{role}_{key}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    mine = {"PYTHONPATH": str(folder), "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, env=base | who | mine, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_ten_lines_add_a_notebook(clone):
    assert len(LINES) == 10
    shell("make -t env && git init -q . && git add -A && git commit -qm Before", clone)  # -t: the environment is there
    for line in LINES:
        shell(line, clone)
    header = (clone / "notebooks" / "90_question.py").read_text()
    time, memory = (re.search(rf"^# {w}: ([\d.]+ \w+)", header, re.MULTILINE)[1] for w in ("time", "memory"))
    assert f"| 90_question | A question of yours | {time} | {memory} |\n" in (clone / "README.md").read_text()
    changed = shell("git show --name-only --format=", clone).split()
    assert changed == ["README.md", "notebooks/90_question.ipynb", "notebooks/90_question.py"]
    assert not shell("git status --porcelain", clone)
    for hook in HOOKS["repos"][0]["hooks"]:
        shell(hook["entry"] + (" notebooks/90_question.py" if hook.get("pass_filenames", True) else ""), clone)
    assert not shell("git status --porcelain", clone), "a hook changes what is in order"


def test_measures_of_a_run_reach_header_and_readme_and_questions_stay(toys):
    for name in ("11_two", "10_one"):
        toys.add(name, "x = 1")
    readme = toys.folder / "README.md"
    readme.write_text(README.format(rows="| 11_two | is it so? | 9 s | 9.0 GB |\n| 12_gone | why? | 1 s | 1 GB |\n"))
    assert cli.main(["notebooks", "10"]) == cli.OK
    time, memory = re.search(
        r"^# time: (\d+ s) .*\n# memory: ([\d.]+ GB)$", (toys.folder / "notebooks" / "10_one.py").read_text(), re.M
    ).groups()
    rows = f"| 10_one | Toy 10_one | {time} | {memory} |\n| 11_two | is it so? | 1 s | 1 GB |\n"
    assert readme.read_text() == README.format(rows=rows)


def test_a_readme_without_the_table_stays_as_it_is(toys):
    toys.add("10_one")
    pairing.write_readme_table(toys.folder)
    assert not (toys.folder / "README.md").exists()
    (toys.folder / "README.md").write_text("# Mine\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    pairing.write_readme_table(toys.folder)
    assert (toys.folder / "README.md").read_text() == "# Mine\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_the_readme_of_the_project_is_what_the_command_writes(tmp_path, monkeypatch):
    monkeypatch.delenv("STPATH_HOME", raising=False)
    shutil.copy(ROOT / "README.md", tmp_path)
    pairing.write_readme_table(tmp_path)
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text(), "run `stpath notebooks`"


def test_hooks_need_no_network_and_use_the_locked_tools():
    assert [repository["repo"] for repository in HOOKS["repos"]] == ["local"]
    for hook in HOOKS["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith((".venv/bin/ruff ", ".venv/bin/stpath "))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_well_formed(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
    for field in form["body"]:
        assert field["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
    assert any(field["validations"]["required"] for field in form["body"] if "validations" in field)


def test_citation_names_the_three_papers_and_no_person():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert all(set(author) == {"name"} for author in citation["authors"])
    papers = ("2604.23481", "2603.18461", "2503.07173")
    assert [one["url"] for one in citation["references"]] == [f"https://arxiv.org/abs/{paper}" for paper in papers]


def test_code_and_text_have_their_licences():
    assert (ROOT / "LICENSE").read_text().startswith("BSD 3-Clause License")
    assert "https://creativecommons.org/licenses/by/4.0/" in (ROOT / "LICENSE-text").read_text()


def test_the_changelog_tells_of_this_version():
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert first == __version__
