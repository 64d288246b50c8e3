"""One environment, said five times: pyproject.toml, its two locks, environment.yml, and what the code imports."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.utils import canonicalize_name
from packaging.version import Version

import stpath_core
from conftest import ROOT, VERSIONS
from stpath_core import lock

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {
    name: {package: next(iter(one.specifier)).version for package, one in lock.read_lock(ROOT / name).items()}
    for name in (lock.LOCKED, lock.MINIMUM)
}
WANTED = {canonicalize_name(r.name): r for r in lock.wanted(ROOT / "pyproject.toml")}

# Wanted although nothing here imports them, each for its reason.
USED_OTHERWISE = {
    "igraph": "Leiden clustering in scanpy",
    "imagecodecs": "JPEG and JPEG 2000 inside TIFF and SVS files",
    "jupyter-server": "its floor of 2.20 mends a known hole",
    "jupyterlab": "make lab",
    "pytest-xdist": "make test",
    "ruff": "make test",
    "setuptools": "builds the editable install",
    "myst-nb": "reads prose and notebooks of the book (docs/conf.py)",
    "sphinx": "make book",
    "sphinx-book-theme": "how the book looks (docs/conf.py)",
    "sphinx-copybutton": "the book's copy buttons (docs/conf.py)",
    "torchvision": "timm needs the build that matches torch",
}
# Imported where they come from: installed with a package that we name.
BROUGHT_BY = {
    "jupyter_client": "nbclient",
    "traitlets": "nbclient",
    "nbconvert": "jupyterlab",
    "docutils": "sphinx",
    "zmq": "ipykernel",
    "matplotlib_inline": "ipykernel",
}


def imports(*folders):
    """Top-level modules that our Python files import, with one file that does."""
    found = {}
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module]
                found |= {name.partition(".")[0]: path.relative_to(ROOT) for name in names}
    ours = {
        "stpath_core",
        "docs",
        *(path.stem for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")),
    }
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names and name not in ours}


@pytest.mark.skipif(VERSIONS == "newest", reason="the newest versions follow no lock")
def test_lock_is_exactly_what_pyproject_leads_to():
    name = {"locked": lock.LOCKED, "minimum": lock.MINIMUM}[VERSIONS]
    assert (ROOT / name).read_text() == lock.lock_text(lock.closure(WANTED.values()), name)


@pytest.mark.parametrize("name", LOCKS)
def test_lock_pins_exactly_and_names_no_index_or_path(name):
    for line in (ROOT / name).read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9.-]+==[\w.!]+( ; .+)?", line), line
    for package, requirement in lock.read_lock(ROOT / name).items():
        linux_only = package.startswith(("nvidia-", "cuda-", "triton"))
        wanted = 'platform_system == "Linux" and platform_machine == "x86_64"'
        assert str(requirement.marker or "") == (wanted if linux_only else ""), package


@pytest.mark.parametrize("name", LOCKS)
def test_lock_lies_within_what_pyproject_allows(name):
    for package, requirement in WANTED.items():
        version = LOCKS[name][package]
        assert version in requirement.specifier, f"{package} {version} is not {requirement.specifier}"


def test_the_minimum_lock_pins_what_pyproject_names_at_its_lowest():
    for name, requirement in WANTED.items():
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        pinned = LOCKS[lock.MINIMUM][name]
        assert Version(pinned) == Version(bound.version), f"{requirement}, but {pinned} is what can be installed"


@pytest.mark.skipif(VERSIONS == "minimum", reason="this run is what the record will be of")
def test_the_suite_has_passed_on_the_minimum_versions():
    path = ROOT / "data" / "results" / "test_minimum.json"
    if not path.exists():
        pytest.skip("make test-minimum has left no record yet")
    ended = json.loads(path.read_text())
    assert ended["versions"] == "minimum"
    assert ended["failed"] == ended["error"] == 0
    assert ended["passed"] > 1000
    assert ended["packages"] == {name: LOCKS[lock.MINIMUM][name] for name in WANTED}, "make test-minimum"
    assert ended["git"]["changed"] is False, "a record is of a revision: commit first"


@pytest.mark.parametrize("name", LOCKS)
def test_jupyter_server_has_its_fix_and_torch_its_partner(name):
    versions = LOCKS[name]
    assert tuple(map(int, versions["jupyter-server"].split(".")[:2])) >= (2, 20)
    (major, minor), (_, vision) = (tuple(map(int, versions[n].split(".")[:2])) for n in ("torch", "torchvision"))
    assert (major, vision) == (2, minor + 15), "torchvision 0.(n + 15) is built for torch 2.n"


def test_conda_environment_is_python_pip_and_the_same_lock():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["name"] == "stpath"
    *plain, pip = conda["dependencies"]
    assert plain == [f"python{PYPROJECT['project']['requires-python']}", "pip"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}


def test_every_import_is_of_a_package_that_pyproject_names():
    owners = importlib.metadata.packages_distributions()
    for module, path in imports("stpath_core", "notebooks", "tests", "docs").items():
        names = {canonicalize_name(name) for name in owners.get(module, [])} | {BROUGHT_BY.get(module, "")}
        assert names & set(WANTED), f"{path} imports {module}, which pyproject.toml does not name"


def test_every_named_package_is_used():
    owners = importlib.metadata.packages_distributions()
    modules = imports("stpath_core", "notebooks", "tests", "docs")
    used = {canonicalize_name(name) for module in modules for name in owners.get(module, [])}
    used |= set(BROUGHT_BY.values())
    unused = set(WANTED) - used - set(USED_OTHERWISE)
    assert not unused, f"nothing imports {sorted(unused)}; leave them out of pyproject.toml"
    assert not set(USED_OTHERWISE) - set(WANTED)


@pytest.mark.parametrize("module", ["stpath_core", "stpath_core.cli"])
def test_import_stays_light(module):
    program = (
        f"import time; t = time.perf_counter(); import {module}, sys; print(time.perf_counter() - t, *sys.modules)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
        for _ in range(3)
    ]
    seconds = min(float(run.stdout.split()[0]) for run in runs)
    assert seconds < 0.3
    assert not {"torch", "scanpy", "squidpy", "pandas", "numpy", "matplotlib", "papermill"} & set(
        runs[0].stdout.split()
    )


def test_rooms_are_reached_from_the_package_and_wrong_names_are_told():
    assert stpath_core.errors.InputError
    with pytest.raises(AttributeError, match="record"):
        _ = stpath_core.no_such_room


def test_dependencies_are_few_and_none_is_lightning():
    """Its releases 2.6.2 and 2.6.3 carried a program that took credentials away."""
    assert len(PYPROJECT["project"]["dependencies"]) <= 30, "a new one brings its authors' accounts along: drop another"
    assert not [name for packages in LOCKS.values() for name in packages if "lightning" in name]


def test_every_folder_of_the_library_is_a_package():
    folders = {path.parent for path in (ROOT / "stpath_core").rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_version_is_said_once():
    assert PYPROJECT["project"]["version"] == stpath_core.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == stpath_core.__version__


def test_warnings_are_errors_and_each_exception_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"filterwarnings = \[\n(.*?)\n\]", text, re.DOTALL)[1].splitlines()
    assert block[0].strip() == '"error",'
    assert all("#" in line for line in block[1:] if '"ignore' in line)


def test_files_keep_to_one_concern():
    for path in (ROOT / "stpath_core").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, f"{path.name} is long; cut it in two rooms"


def test_nothing_names_how_the_project_was_made():
    """No path of a builder's machine in what a reader gets."""
    for pattern in ("*.py", "*.md", "*.toml", "*.yml", "*.yaml", "Makefile"):
        for path in ROOT.rglob(pattern):
            top = path.relative_to(ROOT).parts[0]
            if top in ("runs", "data", "build", "tests") or (top[0] == "." and top not in (".ci", ".github")):
                continue  # what a run, a build, or an environment (also that of the benchmarks) has put here
            assert not re.search(r"/(work|home|root|Users)/\w", path.read_text(errors="ignore")), path


def test_only_small_files_that_belong_here_are_tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = [ROOT / name for name in listed.stdout.split("\0") if name]
    large = [path.name for path in tracked if path.is_file() and path.stat().st_size > 1.5 * 2**20]
    assert not large, f"{large} are over 1.5 MiB; data and outputs of runs stay out of the repository"
    assert not [path for path in tracked if path.suffix in (".h5ad", ".h5", ".safetensors", ".zarr")]
