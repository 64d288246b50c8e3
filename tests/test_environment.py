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
    "numba": "scanpy",
}
# What is kept silent although warnings are errors: file, function, and why. Nothing else may be.
SILENT = {
    "benchmarks/beside.py _timed": "the peers' own warnings are not ours to mend",
    "notebooks/00_the_virtual_tissue.py": "spatialdata-io and what it imports warn of their own future",
    "stpath_core/checks.py check_encoder": "the encoder is built only to see whether it can be",
    "stpath_core/cluster_typing.py _clusters": "one kind: pandas minds how scanpy grows its table",
    "stpath_core/io/export.py write_spatialdata": "zarr and its codecs warn of formats while spatialdata writes",
    "stpath_core/io/genes.py names_may_repeat": "one message: our readers say themselves which names repeat",
    "stpath_core/io/reference.py read_h5ad": "old layouts of strangers' files are read, and what matters is said by us",
    "stpath_core/io/sdata.py read_store": "spatialdata, dask and zarr warn at import and of older stores",
    "stpath_core/io/visium.py _matrix": "scanpy warns at import and of names that repeat, which we say",
    "stpath_core/io/xenium.py _read": "spatialdata-io warns at import and of tables that we leave out",
    "stpath_core/parts.py gather": "a stranger's file is looked at: what is wrong comes as a finding",
    "stpath_core/recognition_scores.py shrunk_lda": "one message: a class of one spot has no spread to add",
    "stpath_core/record.py begin": "one message: tqdm misses widgets, and our bars need none",
    "stpath_core/tables.py quiet": "imports of squidpy and spatialdata warn of packages that we do not choose",
    "stpath_core/views.py view": "a stranger's file is drawn: the checklist says what is wrong with it",
    "tests/fuzz_child.py main": "damaged files may warn; the test is of errors and of what is touched",
    "tests/fuzz_child.py one": "damaged files may warn; the test is of errors and of what is touched",
    "tests/fuzz_corpus.py _zarr": "spatialdata's writers warn; their test is elsewhere",
    "tests/test_formats.py test_names_that_occur_twice_are_refused_or_settled_by_a_word": "anndata warns, as it should",
    "tests/test_formats.py zarr_bundle": "spatialdata-io by itself, without our readers' silence",
    "tests/test_fuzz.py test_damaged_files_end_in_one_clear_error_and_touch_nothing": "writers of sound files",
    "tests/test_labels.py test_types_on_a_real_section": "anndata reads an old layout",
    "tests/test_properties_scores.py oracle": "scipy warns of constants, which are among the examples",
    "tests/test_section_io.py test_counts_agree_with_the_vendors_matrix": "scanpy by itself",
    "tests/test_section_io.py test_spatialdata_reads_back_what_was_written": "spatialdata by itself",
    "tests/test_smuggling.py test_what_a_notebook_shows_of_names_in_data_runs_nothing": "names are numbers on purpose",
    "tests/test_xenium_bundle.py test_spatialdata_io_opens_every_element": "spatialdata-io by itself",
}
# What writes a file elsewhere than to a path aside: file, function, and why. Nothing else of the library may.
FILLED = "fills a folder that `write_section` moves into place as a whole"
WRITERS = {
    "stpath_core/comparison.py _curve": "into memory",
    "stpath_core/pack.py picture": "into memory",
    "stpath_core/io/download.py _write_state": "writes aside and replaces by itself, beside a .part that is locked",
    "stpath_core/io/download.py fetch": "a .part grows until it is whole, and is then moved into place",
    "stpath_core/io/files.py only_one": "the number of the process, in the file that is locked",
    "stpath_core/large/slide.py _write_table": "on a path that is aside",
    "stpath_core/io/unpack.py _write": "into the new folder of an archive, moved into place as a whole",
    "stpath_core/large/labels.py _sort_part": "into a folder for the time of the call, which may be removed meanwhile",
    "stpath_core/mistakes.py _edit": "in a copy that is moved into place as a whole",
    "stpath_core/mistakes.py _normalise": "in a copy that is moved into place as a whole",
    "stpath_core/offline.py _describe": "fills a folder that `write` moves into place as a whole",
    "stpath_core/run.py _async_launch_kernel": "a log grows while the kernel runs",
    "stpath_core/sweep.py _run_held": "a log grows while the point runs",
    "stpath_core/tissue/assays.py _write_bag": "fills a folder that `write_bags` moves into place as a whole",
    "stpath_core/tissue/xenium.py _write_specs": FILLED,
    "stpath_core/tissue/xenium.py _write_image": FILLED,
    "stpath_core/tissue/xenium.py _write_dapi": FILLED,
    "stpath_core/tissue/xenium.py _write_boundaries": FILLED,
    "stpath_core/tissue/xenium.py _write_transcripts": FILLED,
    "stpath_core/tissue/xenium.py _write_cells": FILLED,
    "stpath_core/tissue/xenium.py _write_matrix": FILLED,
    "stpath_core/tissue/xenium.py _write_masks": FILLED,
    "stpath_core/tissue/xenium.py _write_truth": FILLED,
}
WRITING = {  # functions that write files, whatever they are given
    "write_text", "write_bytes", "savez", "savez_compressed", "savetxt", "to_csv", "to_parquet", "to_hdf", "to_json",
    "to_excel", "to_pickle", "to_feather", "write_h5ad", "write_zarr", "save_file", "savefig", "imwrite", "imsave",
    "tofile", "copyfile", "copy2", "TiffWriter", "memmap",
}  # fmt: skip


def writes(node):
    """Whether a node is a call that writes a file."""
    if not isinstance(node, ast.Call):
        return False
    whole = ast.unparse(node.func)
    room, _, name = whole.rpartition(".")
    given = [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
    modes = [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str) and len(a.value) < 4]
    opens = name in ("open", "File", "open_group", "ZipFile") and any(set("wax+") & set(mode) for mode in modes)
    saves = name == "save" and room not in ("predict", "recognition_files")  # these two go by a path aside
    pipes = whole in ("pq.write_table", "os.write", "shutil.copy")
    return name in WRITING or opens or saves or pipes


def written_aside(node):
    """Whether a node is a block whose files come to their place whole or not at all."""
    return isinstance(node, ast.With) and any(
        isinstance(one, ast.Call) and ast.unparse(one.func).endswith(("atomic_path", "atomic_folder"))
        for item in node.items
        for one in ast.walk(item.context_expr)
    )


def places(tree, node_is_one, path, but_not_in=lambda node: False):
    """`file function` of the nodes that are asked for, with the innermost function they stand in; once each."""
    found = {}

    def walk(node, inside):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                walk(decorator, node.name)
            node, inside = ast.Module([*node.body], []), node.name
        if but_not_in(node):
            return
        if node_is_one(node):
            found[f"{path} {inside}".strip()] = node
        for below in ast.iter_child_nodes(node):
            walk(below, inside)

    walk(tree, "")
    return found


def silences(node):
    """Whether a node makes warnings something less than errors."""
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func).rpartition(".")[2]
    given = [*node.args, *(k.value for k in node.keywords if k.arg == "action")]
    words = [a.value.partition(":")[0] for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return name in ("catch_warnings", "simplefilter", "filterwarnings") and any(word != "error" for word in words)


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
    if not path.exists() and VERSIONS == "minimum":
        pytest.skip("this run is to leave the record")
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


def test_what_is_kept_silent_stands_in_the_list_with_its_reason():
    found = {}
    for folder in ("stpath_core", "tests", "docs", "notebooks", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found |= places(ast.parse(path.read_text()), silences, path.relative_to(ROOT).as_posix())
    new, gone = sorted(set(found) - set(SILENT)), sorted(set(SILENT) - set(found))
    assert not new, f"{new} silence warnings: mend the cause, or add a line to SILENT with the reason"
    assert not gone, f"{gone} silence nothing any more: take their lines out of SILENT"
    assert all(len(reason) > 10 for reason in SILENT.values())


def test_the_library_writes_files_whole_or_not_at_all():
    found = {}
    for path in sorted((ROOT / "stpath_core").rglob("*.py")):
        found |= places(ast.parse(path.read_text()), writes, path.relative_to(ROOT).as_posix(), written_aside)
    new, gone = sorted(set(found) - set(WRITERS)), sorted(set(WRITERS) - set(found))
    assert not new, f"{new} write in place: go by atomic_path or atomic_folder, or give WRITERS a line with the reason"
    assert not gone, f"{gone} write nothing in place any more: take their lines out of WRITERS"


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
