"""The generated tables of the reference: keys, parameters of every notebook, data sets, commands."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from docs.tools.prose import literal
from stpath_core import cli, stages
from stpath_core.io.registry import registry

PROFILES = ("smoke", "cpu", "gpu")


def write(folder: Path) -> None:
    """Write all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "keys": keys(),
        "parameters": parameters(),
        "datasets": datasets(),
        "commands": commands(),
    }.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def keys() -> str:
    """The slots of AnnData and SpatialData, from keys.py and its comments."""
    source = (stages.home() / "stpath_core" / "keys.py").read_text(encoding="utf-8")
    said = "`from stpath_core import keys` names the slots that stpath reads and writes: "
    said += '`adata.obs[keys.PATIENT]` is `adata.obs["patient"]`.'
    lines = ["# Keys of AnnData and SpatialData", "", said, ""]
    for line in source.splitlines():
        if match := re.match(r"# (.+)", line):
            lines += ["", f"## {match[1]}", "", "| name | value | meaning |", "|---|---|---|"]
        elif match := re.match(r"([A-Z_, ]+) = ([^#]+)(?:#\s*(.*))?$", line):
            values = match[2].strip().strip("()").split(", ")
            for name, value in zip(match[1].split(", "), values, strict=True):
                if not any(row.startswith("## ") for row in lines):
                    continue
                lines.append(f"| `{name}` | `{value}` | {literal(match[3] or '')} |")
    return "\n".join(lines) + "\n"


def parameters() -> str:
    """What every notebook can be asked, from its parameters cell and the profiles."""
    said = "`.venv/bin/stpath run 11 -p steps=200` changes one. What is given wins over the profile, the profile over "
    lines = ["# Parameters of every notebook", "", said + "the default; a dash: the profile says nothing.", ""]
    for name in stages.notebook_names():
        notebook = stages.find_notebook(name)
        decided = {p: stages.profile_values(notebook, p) for p in PROFILES if (params() / f"{p}.yaml").is_file()}
        link = f"The notebook: [{notebook.header.get('title')}](../notebooks/{name}.ipynb)."
        lines += [f"## {name.replace('_', ' ')}", "", link, "",
                  f"| name | type | default | {' | '.join(decided)} | meaning, unit |",
                  "|---|---|---|" + "---|" * len(decided) + "---|"]  # fmt: skip
        for one in notebook.parameters.values():
            said = [f"`{values[one.name]}`" if one.name in values else "-" for values in decided.values()]
            kind = one.kind_name.replace("|", "\\|")
            lines.append(f"| `{one.name}` | {kind} | `{one.default!r}` | {' | '.join(said)} | {literal(one.comment)} |")
        lines.append("")
    return "\n".join(lines)


def params() -> Path:
    """The folder of the profiles."""
    return stages.home() / "notebooks" / "params"


def datasets() -> str:
    """The public data sets of the registry, with licences."""
    said = "`.venv/bin/stpath data list` shows these, `data get NAME` fetches what may be fetched. Addresses marked "
    said += "unverified have never been tried by us; read [about the data](../data.md) before you rely on one."
    lines = ["# Data sets", "", said, ""]
    for entry in registry().values():
        told = {
            "Licence": entry.licence + (" **Not for commercial use.**" if entry.non_commercial else ""),
            "From": entry.source,
            "Cite": entry.citation,
            "Size": entry.size,
            "Micrometres per pixel": str(entry.mpp) if entry.mpp else "",
            "Patients": entry.patients,
            "Access": entry.access,
            "How": entry.how,
            "Use": entry.note,
        }
        lines += [f"## {entry.name}", "", literal(entry.title), ""]
        lines += [
            f"- **{label}:** {value if label == 'Licence' else literal(value)}"
            for label, value in told.items()
            if value
        ]
        lines += [f"- **File:** `{file.url}` ({'verified' if file.verified else 'unverified'})" for file in entry.files]
        lines.append("")
    return "\n".join(lines)


def commands() -> str:
    """What `stpath` and each of its commands say with --help."""
    top = cli.parser()
    found = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    lines = ["# Commands", "", "```text", help_of(top), "```", ""]
    for name, command in found.choices.items():
        lines += [f"## stpath {name}", "", "```text", help_of(command), "```", ""]
    return "\n".join(lines)


def help_of(parser: argparse.ArgumentParser) -> str:
    """Its help at a fixed width, whatever the terminal."""
    parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100)
    return parser.format_help().rstrip()
