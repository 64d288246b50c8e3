"""The book: built offline from committed outputs, whole, and true to the code."""

from __future__ import annotations

import ast
import doctest
import re
import shlex
from pathlib import Path

import nbformat
import pytest

from book import local_target, pages
from conftest import ROOT
from docs.tools import alt, build, notebooks, prose, reference, tables
from stpath_core import cli, keys, pairing, stages
from stpath_core.errors import StpathError

NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
PROSE = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
EXAMPLES = reference.examples()


@pytest.fixture(scope="module")
def read(book):
    return pages(book)


def test_it_has_the_pages_that_readers_were_promised(book):
    wanted = ["index", "glossary", "faq", "licences", "teaching", "search", *(f"notebooks/{name}" for name in NAMES)]
    wanted += [f"howto/{name}" for name in ("xenium", "visium", "tcga", "encoder", "cluster", "large", "gpu")]
    wanted += [f"concepts/{name}" for name in ("coordinates", "batch_effects", "leakage", "baselines", "intervals")]
    wanted += [f"reference/{name}" for name in ("functions", "keys", "parameters", "datasets", "commands")]
    assert not [name for name in wanted if not (book / f"{name}.html").is_file()]


def test_every_local_link_and_anchor_resolves(read):
    broken = []
    for path, page in read.items():
        for href in page.links:
            if (target := local_target(path, href)) is None:
                continue
            file, anchor = target
            if not file.is_file() or (anchor and file in read and anchor not in read[file].ids):
                broken.append(f"{path.name}: {href}")
    assert not broken
    assert sum(len(page.links) for page in read.values()) > 1000


def test_every_figure_has_a_text_that_says_what_it_shows(read):
    texts = [image.get("alt", "") for page in read.values() for image in page.images]
    assert len(texts) > 50
    assert all(len(text) > 20 and "_images/" not in text for text in texts)


def test_pages_load_nothing_from_elsewhere(read):
    away = [src for page in read.values() for src in page.loaded if re.match(r"(https?:)?//", src)]
    assert not away
    for path, page in read.items():
        for src in page.loaded:
            assert local_target(path, src)[0].is_file(), f"{path.name} lacks {src}"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_shown_with_its_outputs_and_can_be_downloaded(book, read, name):
    page = read[(book / "notebooks" / f"{name}.html").resolve()]
    for suffix in (".ipynb", ".py"):
        href = next(href for href in page.links if href.endswith(f"{name}{suffix}"))
        file, _ = local_target(page.path.resolve(), href)
        assert file.read_bytes() == (ROOT / "notebooks" / f"{name}{suffix}").read_bytes()
    nb = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    pictures = {alt.picture(output) for cell in nb.cells for output in cell.get("outputs", ())} - {b""}
    assert len({image["src"] for image in page.images}) == len(pictures)
    assert not any("colab" in href or "mybinder" in href for href in page.links), "repository is unset"


def test_a_stale_notebook_stops_the_build_with_one_line_and_leaves_nothing(toys, capsys):
    toys.add("10_one")
    pairing.sync_all(say=lambda _: None)
    target = toys.folder / "book"
    assert build.main([str(target)]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("book: the outputs in 10_one.ipynb are stale")
    assert "\n" not in said
    assert not target.exists()
    source = toys.folder / "notebooks" / "10_one.py"
    source.write_text(source.read_text() + "\n# %%\nx = 2\n")
    with pytest.raises(StpathError, match="not in step"):
        notebooks.current("10_one")


def test_a_new_notebook_finds_its_place_by_its_number(toys):
    for name in ("10_one", "40_both", "90_mine"):
        toys.add(name)
    text = notebooks.contents(stages.notebook_names())
    assert text.index("Part 1") < text.index("10_one") < text.index("## Together") < text.index("40_both")
    assert text.index(notebooks.GAPS) < text.index("90_mine")


def test_buttons_come_from_the_one_value_and_only_where_it_is_set():
    assert notebooks.launch("", "10_one") == ""
    github = notebooks.launch("https://github.com/someone/tissue", "10_one")
    assert "colab.research.google.com/github/someone/tissue/blob/main/notebooks/10_one.ipynb" in github
    assert "mybinder.org/v2/gh/someone/tissue/HEAD?urlpath=lab/tree/notebooks/10_one.ipynb" in github
    elsewhere = notebooks.launch("https://git.example.org/tissue", "10_one")
    assert "colab.research" not in elsewhere
    assert "mybinder.org/v2/git/https%3A%2F%2Fgit.example.org%2Ftissue/HEAD" in elsewhere
    assert all("../howto/gpu.md#colab-and-binder" in said for said in (github, elsewhere))
    assert "## Colab and Binder\n" in (ROOT / "docs" / "howto" / "gpu.md").read_text()


def test_repository_is_read_from_pyproject(tmp_path):
    (tmp_path / "p.toml").write_text('[tool.stpath]\nrepository = "https://github.com/a/b.git/"\n')
    assert build.repository(tmp_path / "p.toml") == "https://github.com/a/b"


def test_every_public_function_has_its_entry(book, read):
    lost = []
    for path in reference.rooms():
        name = reference.dotted(path)
        page = read.get((book / "reference" / f"{name}.html").resolve())
        lost += [
            f"{name}.{n.name}" for n in reference.public(path) if page is None or f"{name}.{n.name}" not in page.ids
        ]
    assert not lost


def test_a_function_is_told_with_arguments_errors_and_uses():
    source = (
        'def f(x, *, y=1):\n    """Do it.\n\n    x : (n, 2) um*\n    """\n'
        '    if x:\n        msg = f"x is {x}"\n        raise InputError(msg)\n'
        '    msg = "none"\n    raise InputError(msg)\n'
    )
    used = [notebooks.Use("10_one", "Count, then *type*", "f(1)", copied=True)]
    text = reference.entry(ast.parse(source).body[0], "stpath_core.a.f", "", used, ">>> 1\n1")
    for said in ("f(x, *, y=1)", r"- `x`: (n, 2) um\*", "`InputError`: `x is {x}`", "`InputError`: `none`", "f(1)"):
        assert said in text
    assert "(../notebooks/10_one.ipynb#count-then-type)" in text
    assert "```pycon\n>>> 1" in text


def test_docstrings_keep_their_form():
    text = prose.from_docstring("One *line*.\n\nn, m : (k,) of `a_b`\n  more\n\nExamples\n--------\n>>> f(1)\n2\n")
    assert text == "One \\*line\\*.\n\n- `n, m`: (k,) of `a_b`\n  more\n\n**Example**\n\n```pycon\n>>> f(1)\n2\n```"


@pytest.mark.parametrize("path", reference.rooms(), ids=reference.dotted)
def test_examples_of_docstrings_run(path, tmp_path, monkeypatch):
    text = path.read_text()
    if ">>>" not in text:
        return
    monkeypatch.chdir(tmp_path)
    import importlib

    assert not doctest.testmod(importlib.import_module(reference.dotted(path)), extraglobs=own_globals()).failed


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_beside_the_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(EXAMPLES[name], {}, name, None, 0)
    assert test.examples
    assert name.rpartition(".")[2] in EXAMPLES[name]
    assert not doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed


def own_globals():
    import numpy as np

    return {"np": np}


def test_keys_and_parameters_are_complete():
    text = tables.keys()
    names = [name for name in vars(keys) if re.fullmatch("[A-Z][A-Z_]*", name)]
    assert not [name for name in names if f"| `{name}` | `" not in text]
    text = tables.parameters()
    for name in NAMES:
        part = text.split(f"## {name.replace('_', ' ')}\n")[1].split("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) == list(stages.find_notebook(name).parameters)


def blocks(kind):
    """Code blocks of the prose: (file, text)."""
    found = []
    for path in PROSE:
        texts = re.findall(rf"^```{kind}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        found += [(f"{path.relative_to(ROOT)} {n}", text) for n, text in enumerate(texts)]
    return found


@pytest.mark.parametrize(("where", "text"), blocks("sh"), ids=lambda x: x if "\n" not in x else "")
def test_commands_in_prose_are_commands_that_there_are(where, text):
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != [".venv/bin/stpath"] or "--help" in words:
            continue
        asked = cli.parser().parse_args(words[1:])
        if asked.command == "run":
            declared = set()
            names = NAMES if asked.notebooks == ["all"] else asked.notebooks
            for name in names:
                if name != "90":
                    declared |= set(stages.find_notebook(name).parameters)
            assert not {value.partition("=")[0] for value in asked.values} - declared, f"{where}: {line}"
        if asked.command == "data" and asked.name not in (None, "NAME"):
            from stpath_core.io.registry import registry

            assert asked.name in registry()


@pytest.mark.parametrize(("where", "text"), blocks("python"), ids=lambda x: x if "\n" not in x else "")
def test_python_in_prose_compiles_and_runs_where_it_needs_no_files(where, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what an example writes must not lie in the repository
    code = compile(text, where, "exec")
    imported = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            exec(compile(ast.Module([node], []), where, "exec"), imported)
    for node in ast.walk(ast.parse(text)):  # what is called is there
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            assert hasattr(imported[node.value.id], node.attr), f"{where}: {node.value.id}.{node.attr}"
    needs_files = re.search(r"FOLDER|bags|prototypes|he\.tif|xy_um", text)
    if not needs_files:
        exec(code, {})


def test_a_figure_is_described_by_heading_name_axes_and_prose():
    nb = nbformat.v4.new_notebook()
    data = {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure size 1x1 with 2 Axes>"}
    nb.cells = [
        nbformat.v4.new_markdown_cell("## Who is *it*?\nRows are classes. More."),
        nbformat.v4.new_code_cell(
            'for n in ("a", "b"):\n    run.figure(f"map_{n}", ax)',
            outputs=[
                nbformat.v4.new_output("display_data", data=data | {"image/png": text}) for text in ("AAAA", "BBBB")
            ],
        ),
        nbformat.v4.new_code_cell(
            'ax.set(xlabel="dose (um)", ylabel="loss")\nrun.figure("curve", ax)',
            outputs=[nbformat.v4.new_output("display_data", data=data)],
        ),
    ]
    assert list(alt.texts(nb).values()) == [
        "Who is it?: map a, 2 panels. Rows are classes.",
        "Who is it?: map b, 2 panels. Rows are classes.",
        "Who is it?: curve, 2 panels; across dose (um), up loss. Rows are classes.",
    ]


def test_the_book_is_a_target_of_make_and_of_the_readme():
    assert "python -m docs.tools.build" in (ROOT / "Makefile").read_text()
    assert "make book" in (ROOT / "README.md").read_text()


def test_prose_names_no_folder_that_is_not_there():
    for path in PROSE:
        for name in re.findall(r"`((?:docs|data|notebooks|tests)/[\w./]+\.\w+)`", path.read_text()):
            if "NN_name" in name or "90_question" in name:
                continue
            assert (ROOT / name).exists(), f"{Path(path).name}: {name}"
