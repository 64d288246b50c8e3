"""What the tests of the book share: the book built once, its pages parsed."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """Anchors, links, pictures and what a page loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.ids, self.links, self.images, self.loaded = path, set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given)
        if tag in ("img", "script", "source") and given.get("src"):
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "modulepreload"):
            self.loaded.append(given["href"])


def pages(folder: Path) -> dict[Path, Page]:
    """Every page of a built book (the theme keeps templates among its files)."""
    return {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts}


def local_target(page: Path, href: str) -> tuple[Path, str] | None:
    """The file and the anchor that a link means, or None where it leaves the book."""
    parts = urlsplit(href)
    if parts.scheme or parts.netloc:
        return None
    return (page.parent / unquote(parts.path)).resolve() if parts.path else page, unquote(parts.fragment)
