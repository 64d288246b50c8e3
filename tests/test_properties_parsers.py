"""What must hold of what is read as text, whoever wrote it: the same comes back, or one clear error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stpath_core import celltyping, lock, stages
from stpath_core.errors import InputError
from stpath_core.io.bulk import read_bulk
from stpath_core.io.genes import gene_names

SOME = settings(max_examples=60)
GENES = ("EPCAM", "CD3E", "VIM", "COL1A1", "MKI67")
UNSURE = ['"', ",", "\t", ";", "\n", "#", "gene", "super_class", "fine_type", "species", "official gene symbol", "CD3E",
          "neoplastic", "1", "-1", "0.5", "nan", "é", "\0", "\ufeff"]  # fmt: skip
texts = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(UNSURE), max_size=40).map("".join))
words = st.text("abc xyz=#[]{}'\"é", max_size=20).map(lambda word: f"a = 1  # {word}".rstrip())
cells = st.tuples(st.sampled_from(["code", "markdown", "raw"]), st.lists(words, min_size=1, max_size=3),
                  st.lists(st.sampled_from(["parameters", "copy-me", "check"]), unique=True, max_size=2))  # fmt: skip


def told(read, *given, **named) -> str | None:
    """What a reader says against what it is given; None where it takes it."""
    try:
        read(*given, **named)
    except InputError as error:
        return str(error)


@SOME
@given(counts=arrays(np.int64, st.tuples(st.integers(1, 4), st.just(len(GENES))), elements=st.integers(0, 10**6)),
       mark=st.sampled_from("\t,;"), across=st.booleans(), order=st.permutations(range(len(GENES))))  # fmt: skip
def test_a_table_of_counts_is_read_however_it_lies_and_is_parted(tmp_path_factory, counts, mark, across, order):
    samples = [f"s{i}" for i in range(len(counts))]
    rows = [
        ["name", *(GENES[k] for k in order)],
        *([s, *row[list(order)]] for s, row in zip(samples, counts, strict=True)),
    ]
    rows = rows if across else list(zip(*rows, strict=True))
    path = tmp_path_factory.mktemp("bulk") / "table.txt"
    path.write_text("\n".join(mark.join(map(str, row)) for row in rows) + "\n")
    found = read_bulk(path)
    assert list(found.obs_names) == samples
    np.testing.assert_array_equal(found[:, list(GENES)].X.toarray(), counts)


@SOME
@given(text=texts, read=st.sampled_from([read_bulk, celltyping.read_markers]))
def test_any_text_is_a_table_or_one_clear_error(tmp_path_factory, text, read):
    path = tmp_path_factory.mktemp("text") / "table.csv"
    path.write_text(text, encoding="utf-8")
    said = told(read, path)
    assert said is None or (said.strip() and "\n" not in said)


@SOME
@given(header=st.dictionaries(st.sampled_from(["title", "goals", "needs"]), st.text("abc: é", max_size=9), max_size=3),
       written=st.lists(cells, max_size=5))  # fmt: skip
def test_a_notebook_is_read_as_the_cells_it_was_written_with(header, written):
    text = f"# ---\n# {json.dumps(header)}\n# ---\n"
    for kind, lines, tags in written:
        first = "# %%" + (f" [{kind}]" if kind != "code" else "") + (f" tags={json.dumps(tags)}" if tags else "")
        text += "\n".join(["", first, *lines, ""])
    found, read = stages.split_cells(text, where="x.py")
    assert found == header
    assert [(one.kind, one.source, one.tags) for one in read] == [(k, "\n".join(s), tuple(t)) for k, s, t in written]


@SOME
@given(head=texts, tags=st.text("[]\"'a, {}", max_size=12))
def test_any_text_is_a_notebook_of_cells_or_one_clear_error(head, tags):
    head = "\n".join(f"# {line}" for line in head.splitlines())
    text = f"# ---\n{head}\n# ---\n\n# %% tags=[{tags}]\nx\n"
    said = told(stages.split_cells, text, where="x.py")
    assert isinstance(stages.split_cells(text, where="x.py")[0], dict) if said is None else "x.py" in said


@SOME
@given(names=st.lists(st.sampled_from([*GENES, "Cd3e", "Epcam", "ENSG00000000003", "ENSMUSG00000000001", "7"]),
                      max_size=30), random=st.randoms(use_true_random=False))  # fmt: skip
def test_what_names_of_genes_are_does_not_hang_on_their_order(names, random):
    mixed = random.sample(names, len(names))
    found = gene_names(names)
    assert found.duplicates == gene_names(mixed).duplicates == len(names) - len(set(names))
    assert found.kind == gene_names(mixed).kind


@SOME
@given(versions=st.dictionaries(st.sampled_from(["numpy", "torch", "nvidia-nvtx", "triton", "cuda-toolkit", "a-b"]),
                                st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,3}){0,2}(\.post1)?", fullmatch=True)))  # fmt: skip
def test_a_lock_reads_back_as_the_versions_it_was_written_from(tmp_path_factory, versions):
    path = tmp_path_factory.mktemp("lock") / "requirements.lock"
    for name in (lock.LOCKED, lock.MINIMUM):
        path.write_text(lock.lock_text(versions, name))
        assert {name: str(one.specifier) for name, one in lock.read_lock(path).items()} == {
            name: f"=={version}" for name, version in versions.items()
        }


def test_a_header_that_is_no_table_of_words_is_told():
    with pytest.raises(InputError, match="header of x"):
        stages.split_cells("# ---\n# 3\n# ---\n", where="x.py")
