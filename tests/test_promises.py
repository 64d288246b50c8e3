"""Every promise of docs/promises.md names tests that exist."""

from __future__ import annotations

import ast
import re

from conftest import ROOT

TEXT = (ROOT / "docs" / "promises.md").read_text()


def test_every_promise_names_a_test_and_every_named_test_exists():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "promise | tests" not in line]
    assert len(rows) >= 20
    for row in rows:
        named = re.findall(r"(test_\w+\.py)::(test_\w+)", row.split("|")[2])
        assert named, row
        for file, name in named:
            tree = ast.parse((ROOT / "tests" / file).read_text())
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_the_makefile_runs_the_longer_ones():
    recipe = (ROOT / "Makefile").read_text()
    assert "STPATH_FUZZ_INPUTS=10000" in recipe
    assert "tests/test_fuzz.py tests/test_kill.py" in recipe
