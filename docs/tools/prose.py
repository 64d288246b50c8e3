"""Docstrings as Markdown: lists of arguments, examples and tables keep their form, everything else is literal text."""

from __future__ import annotations

import inspect
import re

ARGUMENT = re.compile(r"^(\*{0,2}[\w.\[\]\"'() ,*/=-]{1,80}?) : (.*)$")
SPECIAL = re.compile(r"([\\*_<>\[\]$|{}#~^])")


def literal(text: str) -> str:
    """Text whose signs mean nothing to Markdown; what stands in backticks stays code."""
    parts = re.split(r"(``[^`]+``|`[^`]+`)", text)
    return "".join(part if part.startswith("`") else SPECIAL.sub(r"\\\1", part) for part in parts)


def pycon(text: str) -> str:
    """An example as a code block."""
    return f"**Example**\n\n```pycon\n{text}\n```"


def from_docstring(text: str) -> str:
    """Markdown of a docstring."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return "\n\n".join(filter(None, (_block(block) for block in blocks if block.strip())))


def _block(block: str) -> str:
    lines = block.splitlines()
    if len(lines) > 1 and re.fullmatch(r"-{3,}", lines[1].strip()):
        rest = "\n".join(lines[2:])
        title = "" if lines[0] == "Examples" else f"**{literal(lines[0])}**"
        return "\n\n".join(filter(None, (title, _block(rest) if rest else "")))
    if lines[0].lstrip().startswith(">>>"):
        return pycon(inspect.cleandoc(block))
    if lines[0].startswith(".. math::"):
        return "```latex\n" + inspect.cleandoc(block).removeprefix(".. math::").strip() + "\n```"
    if all(line.startswith(("  ", "\t")) for line in lines):
        return "```text\n" + inspect.cleandoc(block) + "\n```"
    if lines[0].startswith(("- ", "* ", "1. ")):
        return "\n".join(_item(line) for line in lines)
    if any(ARGUMENT.match(line) for line in lines):
        return _arguments(lines)
    return literal(block)


def _item(line: str) -> str:
    mark = re.match(r"(- |\* |\d+\. )", line)
    return f"{mark[0]}{literal(line[mark.end() :])}" if mark else f"  {literal(line.strip())}"


def _arguments(lines: list[str]) -> str:
    """`name : meaning` lines as a list; what follows a line belongs to it."""
    out: list[str] = []
    for line in lines:
        match = ARGUMENT.match(line)
        if match:
            gap = [""] if out and not out[-1].startswith(("- ", "  ")) else []
            out += [*gap, f"- `{match[1]}`: {literal(match[2])}"]
        elif out and out[-1].startswith(("- ", "  ")):
            out.append(f"  {literal(line.strip())}")
        else:
            out.append(literal(line))
    return "\n".join(out)
