"""The reference: a page per room of the library, from its docstrings and signatures, read without importing anything.

Every public function has its shapes and units as its docstring gives them, the errors that it raises with their
messages, the places where notebooks use it, and the examples of its docstring and of docs/examples/.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from docs.tools.notebooks import Use
from docs.tools.prose import from_docstring, literal, pycon

PACKAGE = Path(__file__).parents[2] / "stpath_core"
EXAMPLES = Path(__file__).parents[1] / "examples"
GROUPS = {"": "The rooms", "io": "Reading and writing (io)", "models": "Models", "plot": "Figures (plot)",
          "tissue": "The virtual tissue (tissue)"}  # fmt: skip
SHOWN_USES = 3
MESSAGE = 160  # characters of an error's message


def rooms() -> list[Path]:
    """Every module of the library that a reader may import."""
    return sorted(path for path in PACKAGE.rglob("*.py") if not path.name.startswith("_") or path.name == "__init__.py")


def dotted(path: Path) -> str:
    """The name under which a module is imported."""
    parts = ["stpath_core", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def public(path: Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes that a module defines for others."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def reexported() -> dict[str, str]:
    """The shorter name of what a folder's `__init__` offers: {full name: shorter name}."""
    found = {}
    for path in PACKAGE.rglob("__init__.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stpath_core."):
                found |= {f"{node.module}.{a.name}": f"{dotted(path)}.{a.asname or a.name}" for a in node.names}
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ROOMS":  # imported when used
                for room, names in ast.literal_eval(node.value).items():
                    found |= {f"{dotted(path)}.{room}.{n}": f"{dotted(path)}.{n}" for n in names.split(", ")}
    return found


def examples() -> dict[str, str]:
    """Doctests beside the docstrings: {full name: text} of docs/examples/*.md, a heading each."""
    found = {}
    for path in sorted(EXAMPLES.glob("*.md")):
        for block in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            name, _, text = block.partition("\n")
            found[name.strip()] = text.strip()
    return found


def write(folder: Path, uses: Mapping[str, Sequence[Use]]) -> None:
    """Write a page per room and their table of contents."""
    folder.mkdir(parents=True, exist_ok=True)
    short, extra = reexported(), examples()
    by_group: dict[str, list[str]] = defaultdict(list)
    for path in rooms():
        name = dotted(path)
        if name == "stpath_core" or (path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))):
            continue
        (folder / f"{name}.md").write_text(page(path, uses, short, extra), encoding="utf-8")
        parts = name.split(".")
        group = parts[1] if path.name == "__init__.py" or len(parts) > 2 else ""
        by_group[group].append(name)
    unknown = set(extra) - {f"{dotted(path)}.{node.name}" for path in rooms() for node in public(path)}
    if unknown:
        msg = f"docs/examples/ has examples of {', '.join(sorted(unknown))}, which the library does not define"
        raise ValueError(msg)
    (folder / "functions.md").write_text(contents(by_group), encoding="utf-8")


def contents(by_group: Mapping[str, Sequence[str]]) -> str:
    """The page that lists all rooms with what each is for."""
    said = "`from stpath_core import labels` opens a room. Nothing heavy is imported before it is used. "
    said += "Units stand in the names: `_um` micrometres, `_px` pixels, `mpp` micrometres per pixel."
    lines = ["# Functions, by room", "", said, ""]
    for group in sorted(by_group):
        names = by_group[group]
        lines += [f"## {GROUPS.get(group, group)}", "", "```{toctree}", ":hidden:", "", *names, "```", ""]
        for name in names:
            lines.append(f"- [{name.removeprefix('stpath_core.')}]({name}.md): {first_sentence(name)}")
        lines.append("")
    return "\n".join(lines)


def first_sentence(name: str) -> str:
    """What a room is for, in its own words."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return literal(" ".join(text.split("\n\n")[0].split()))


def page(path: Path, uses: Mapping[str, Sequence[Use]], short: Mapping[str, str], extra: Mapping[str, str]) -> str:
    """The page of one room."""
    name = dotted(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = [f"# {name.removeprefix('stpath_core.')}", "", f"`{how_to_import(name)}`", "",
             f"```{{py:currentmodule}} {name}\n```", ""]  # fmt: skip
    lines += [from_docstring(ast.get_docstring(tree) or ""), ""]
    lines += [constants(tree)]
    for node in public(path):
        full = f"{name}.{node.name}"
        found = [*uses.get(full, ()), *uses.get(short.get(full, ""), ())]
        lines += [f"## {node.name}", "", entry(node, full, short.get(full, ""), found, extra.get(full, "")), ""]
    return "\n".join(lines)


def how_to_import(name: str) -> str:
    """The line that opens a room."""
    parent, _, last = name.rpartition(".")
    return f"from {parent} import {last}" if parent else f"import {name}"


def constants(tree: ast.Module) -> str:
    """Public constants of simple, short values, one line each."""
    named = [
        (target.id, ast.unparse(node.value))
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
        for target in ([node.target] if isinstance(node, ast.AnnAssign) else node.targets)
        if isinstance(target, ast.Name) and re.fullmatch("[A-Z][A-Z0-9_]*", target.id)
    ]
    rows = [f"- `{name} = {value}`" for name, value in named if len(value) < 80 and not set("`\\") & set(value)]
    return "\n".join(["**Constants**", "", *rows, ""]) if rows else ""


def entry(node: ast.FunctionDef | ast.ClassDef, full: str, short: str, used: Sequence[Use], extra: str) -> str:
    """One function or class: signature, what it says of itself, errors, examples, uses."""
    kind = "class" if isinstance(node, ast.ClassDef) else "function"
    lines = [f"::::{{py:{kind}}} {node.name}{signature(node)}", ""]
    lines += [f"Shorter: `{short}`.", ""] if short else []
    lines += [from_docstring(ast.get_docstring(node) or "")]
    if isinstance(node, ast.ClassDef):
        lines += ["", *methods(node)]
    else:
        lines += ["", raised(node)]
    lines += ["", pycon(extra)] if extra else []
    lines += ["", *used_in(used), "::::"]
    return "\n".join(lines)


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The arguments with types and defaults; of a dataclass, its fields."""
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"({ast.unparse(node.args)}){returns}"
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init:
        init.args.args = init.args.args[1:]
        return f"({ast.unparse(init.args)})"
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    shown = [ast.unparse(n) for n in fields if not n.target.id.startswith("_") and "ClassVar" not in ast.unparse(n)]
    short = ", ".join(re.sub(r"field\(.*\)", "...", text) for text in shown)
    return f"({short})" if shown else ""


def methods(node: ast.ClassDef) -> list[str]:
    """Public methods and properties, one line each."""
    rows = []
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            marks = {ast.unparse(d) for d in child.decorator_list}
            if "property" in marks:
                call = child.name
            else:
                child.args.args = child.args.args[(0 if "staticmethod" in marks else 1) :]
                call = f"{child.name}({ast.unparse(child.args)})"
            text = inspect.cleandoc(ast.get_docstring(child) or "").split("\n\n")[0]
            rows.append(f"- `{call}`" + (f": {literal(' '.join(text.split()))}" if text else ""))
    return ["**Methods and properties**", "", *rows, ""] if rows else []


def raised(node: ast.FunctionDef) -> str:
    """The errors that a function itself raises, with the beginning of their messages."""
    said: dict[str, str] = {}
    rows = []
    nodes = (child for child in ast.walk(node) if isinstance(child, ast.Assign | ast.AugAssign | ast.Raise))
    for child in sorted(nodes, key=lambda one: one.lineno):
        if isinstance(child, ast.Assign) and isinstance(child.targets[0], ast.Name):
            said[child.targets[0].id] = words_of(child.value)
        elif isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
            given = child.exc.args[0] if child.exc.args else None
            given = given.left if isinstance(given, ast.BinOp) else given
            text = said.get(given.id, "") if isinstance(given, ast.Name) else words_of(given) if given else ""
            rows.append(f"- `{ast.unparse(child.exc.func)}`" + (f": {text}" if text else ""))
    return "\n".join(["**Errors**", "", *dict.fromkeys(rows), ""]) if rows else ""


def words_of(node: ast.AST) -> str:
    """A message as code, cut to one line; "" where it is put together elsewhere."""
    if isinstance(node, ast.JoinedStr):
        text = "".join(
            str(v.value) if isinstance(v, ast.Constant) else f"{{{ast.unparse(v.value)}}}" for v in node.values
        )
    elif isinstance(node, ast.Constant):
        text = str(node.value)
    else:
        return ""
    text = " ".join(text.replace("`", "'").split())
    return f"`{text if len(text) <= MESSAGE else text[:MESSAGE].rsplit(' ', 1)[0] + ' ...'}`"


def used_in(used: Sequence[Use]) -> list[str]:
    """Where notebooks use it: the statement of the shortest use in a cell to copy, and links."""
    if not used:
        return []
    places = list(dict.fromkeys((use.notebook, use.heading) for use in used))
    links = [f"[{name[:2]}{', ' + literal(heading) if heading else ''}](../notebooks/{name}.ipynb{anchor(heading)})"
             for name, heading in places[:SHOWN_USES]]  # fmt: skip
    more = f" and {len(places) - SHOWN_USES} more places" if len(places) > SHOWN_USES else ""
    best = min(used, key=lambda use: (not use.copied, len(use.code)))
    lines = [f"**In the notebooks:** {'; '.join(links)}{more}.", ""]
    if len(best.code) < 700:
        lines += [
            f"```{{code-block}} python\n:caption: as notebook {best.notebook[:2]} uses it\n",
            best.code,
            "```",
            "",
        ]
    return lines


def anchor(heading: str) -> str:
    """The anchor that MyST gives a heading, as GitHub does."""
    text = re.sub(r"[*`]", "", heading).strip().lower()
    return "#" + re.sub(r"[^\w\- ]", "", text).replace(" ", "-") if heading else ""
