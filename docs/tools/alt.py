"""Alternative texts of the notebooks' figures, from what the notebook says of them: heading, name, axes, panels.

The cells are never edited, because outputs are tied to them by hash: the texts are found by the picture's own hash.
"""

from __future__ import annotations

import ast
import hashlib
import re
from binascii import a2b_base64
from typing import Any

from nbformat import NotebookNode

PICTURES = ("image/png", "image/jpeg")
AXES = {"xlabel": "across", "ylabel": "up", "title": "titled"}
SETTERS = {"set_xlabel": "xlabel", "set_ylabel": "ylabel", "set_title": "title"}


def texts(nb: NotebookNode) -> dict[str, str]:
    """The text of every picture in a notebook, by the sha256 of its bytes."""
    found: dict[str, str] = {}
    heading = prose = ""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            heads = re.findall(r"^#{1,3} (.+)$", cell.source, re.MULTILINE)
            heading, prose = (heads[-1] if heads else heading), said(cell.source)
        if cell.cell_type != "code":
            continue
        outputs = [(data, output) for output in cell.get("outputs", ()) if (data := picture(output))]
        names = figure_names(cell.source)
        for place, (data, output) in enumerate(outputs):
            name = names[place] if len(names) == len(outputs) else ""
            parts = [plain(heading), name or f"figure {place + 1} of {len(outputs)}", panels(output)]
            told = labels(cell.source) if len(outputs) == 1 else ""
            text = ": ".join([parts[0], ", ".join(filter(None, parts[1:]))]) + (f"; {told}" if told else "")
            found[hashlib.sha256(data).hexdigest()] = shortened(f"{text}. {prose}".strip(), 300)
    return found


def picture(output: NotebookNode) -> bytes:
    """The bytes of an output's picture, or b""."""
    data = output.get("data", {})
    return next((a2b_base64(data[kind]) for kind in PICTURES if kind in data), b"")


def panels(output: NotebookNode) -> str:
    """How many axes matplotlib says the figure has."""
    count = re.search(r"with (\d+) Axes", str(output.data.get("text/plain", "")))
    return "" if count is None or count[1] == "0" else f"{count[1]} panel{'s' * (count[1] != '1')}"


def figure_names(source: str) -> list[str]:
    """The names under which a cell keeps its figures, in order; a loop over literals is followed."""
    names: list[str] = []
    for node in ast.parse(source).body:
        names += _names(node, {})
    return names


def _names(node: ast.AST, known: dict[str, str]) -> list[str]:
    if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple | ast.List):
        first = node.target.elts[0] if isinstance(node.target, ast.Tuple) else node.target
        found = []
        for item in node.iter.elts:
            item = item.elts[0] if isinstance(item, ast.Tuple) and item.elts else item
            value = {first.id: item.value} if isinstance(item, ast.Constant) and isinstance(first, ast.Name) else {}
            found += [name for child in node.body for name in _names(child, known | value)]
        return found
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "figure" and node.args:
        return [_filled(node.args[0], known)]
    return [name for child in ast.iter_child_nodes(node) for name in _names(child, known)]


def _filled(node: ast.AST, known: dict[str, Any]) -> str:
    """The words of a string or f-string, as far as they are known."""
    if isinstance(node, ast.Constant):
        return str(node.value).replace("_", " ")
    parts = []
    for value in getattr(node, "values", ()):
        if isinstance(value, ast.Constant):
            parts.append(str(value.value))
        elif isinstance(value, ast.FormattedValue) and isinstance(value.value, ast.Name):
            parts.append(str(known.get(value.value.id, "")))
    return "".join(parts).replace("_", " ").strip()


def labels(source: str) -> str:
    """Axis labels and titles that the cell writes as plain text."""
    told: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "set":
                told |= {k.arg: k.value.value for k in node.keywords if k.arg in AXES and _is_text(k.value)}
            elif node.func.attr in SETTERS and node.args and _is_text(node.args[0]):
                told[SETTERS[node.func.attr]] = node.args[0].value
    return ", ".join(f"{AXES[key]} {' '.join(text.split())}" for key, text in told.items() if text)


def said(markdown: str) -> str:
    """The first sentence of a cell's prose."""
    prose = re.sub(r"^#.*$", "", markdown, flags=re.MULTILINE)
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", prose)]
    lines = [" ".join(p.split()) for p in paragraphs if p and not p.startswith(("|", "- ", "*Predict", "*Before"))]
    first = plain(lines[0]) if lines else ""
    return re.split(r"(?<=[.:?!]) ", first)[0].rstrip(":")


def plain(text: str) -> str:
    """Markdown without its marks."""
    return " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", text).split())


def shortened(text: str, limit: int) -> str:
    """Cut at a word."""
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " ..."


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
