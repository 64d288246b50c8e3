"""One small virtual section and its bundle, made once per test process; tests that break it take a copy."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from functools import cache
from pathlib import Path

from stpath_core import tissue
from stpath_core.io import Section, open_xenium

SIZE_UM = (260.0, 220.0)


@cache
def section() -> tissue.VirtualSection:
    return tissue.make_section("breast", size_um=SIZE_UM, patient=1, seed=3)


class _Folder:
    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="stpath-test-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@cache
def _folder() -> _Folder:
    folder = _Folder()
    tissue.write_section(folder.path / "breast_p1", section())
    return folder


def bundle() -> Path:
    """The folder of the bundle; not to be changed."""
    return _folder().path / "breast_p1"


def bundle_copy(folder: Path) -> Path:
    return Path(shutil.copytree(bundle(), folder / "bundle"))


@cache
def opened() -> Section:
    return open_xenium(bundle())
