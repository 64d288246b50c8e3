"""Build the book: collect, generate, then Sphinx with warnings as errors. Offline; nothing is run, nothing is fetched.

`python -m docs.tools.build [DIR]` writes DIR/html (build/book/html), whole or not at all.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from docs.tools import notebooks, reference, tables
from stpath_core import __version__
from stpath_core.errors import StpathError
from stpath_core.io.files import atomic_folder

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROSE = ("*.md", "howto/*.md", "concepts/*.md", "_static/*", "*.jpg", "*.png", "your_tiles.py", "notebook_template.py")
BESIDE = {"docs/teaching/README.md": "teaching.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md",
          "data/README.md": "data.md", "benchmarks/README.md": "benchmarks.md"}  # fmt: skip


def repository(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """The address of the published project, or "" where pyproject.toml has none."""
    return tomllib.loads(pyproject.read_text())["tool"]["stpath"]["repository"].rstrip("/").removesuffix(".git")


def collect(folder: Path, published: str) -> None:
    """Write every source of the book to `folder`: prose as it stands, notebooks, and the generated pages.

    Raises StpathError, one line, when the outputs of a notebook are not those of its code.
    """
    for path in (path for pattern in PROSE for path in DOCS.glob(pattern)):
        target = folder / path.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for source, target in BESIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        (folder / target).write_text(text.replace("](../docs/", "]("), encoding="utf-8")  # the pages lie in one folder
    names = notebooks.collect(folder, published)
    reference.write(folder / "reference", notebooks.uses(names))
    tables.write(folder / "reference")


def build(target: Path, *, published: str | None = None) -> Path:
    """Build the book in `target` (replaced as a whole). Returns its folder of pages."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as aside:
        source = aside / "source"
        source.mkdir(parents=True)
        collect(source, repository() if published is None else published)
        words = ["-W", "--keep-going", "-q", "-b", "html", "-c", str(DOCS), "-d", str(aside / "doctrees")]
        version = ["-D", f"version={__version__}", "-D", f"release={__version__}"]
        done = subprocess.run(
            [sys.executable, "-m", "sphinx", *words, *version, str(source), str(aside / "html")], check=False
        )
        if done.returncode:
            msg = "the book was not built: Sphinx says above what is wrong"
            raise StpathError(msg)
        shutil.rmtree(aside / "doctrees")
    return target / "html"


def main(words: list[str]) -> int:
    """The command. Returns the exit code."""
    target = Path(words[0] if words else ROOT / "build" / "book").resolve()
    try:
        pages = build(target)
    except StpathError as error:
        print(f"book: {error}", file=sys.stderr)
        return 1
    print(f"book: {len(list(pages.rglob('*.html')))} pages; open {pages / 'index.html'} in a browser")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
