"""Runs beside each other: a table of their numbers, curves over what was varied, and where each number comes from.

Everything that came from a run (names of genes, files, parameters, errors) is text here and is escaped; the page holds
no script and needs no network.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpath_core import stages
from stpath_core.errors import InputError
from stpath_core.io.files import atomic_path
from stpath_core.manifest import read_json

if TYPE_CHECKING:
    import pandas as pd

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:75em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.2em .7em;text-align:right;border-bottom:
1px solid #ddd}th:first-child,td:first-child{text-align:left}.out{color:#b00020}img{max-width:100%}"""
HIDDEN = ("out", "device", "data_dir")  # parameters that never tell two runs apart for a reader
SHOWN = ("notebook", "dataset", "profile", "status", "begun", "seconds")
AT_MOST = 24  # curves


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """The run folders among and below some folders, oldest first; `latest` and folders of points are looked into.

    Raises InputError for a folder that holds none.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = stages.absolute(given)
        inside = [p.parent for p in sorted(path.rglob("manifest.json"))] if path.is_dir() else []
        if not inside:
            msg = f"{given} holds no run (no manifest.json in it or below); `stpath run` and `stpath sweep` make them"
            raise InputError(msg)
        found |= dict.fromkeys(inside)
    return list(found)


def collect(folders: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Numbers and runs.

    Returns a table of numbers (run, key, value, lo, hi, inside: whether in the range its notebook expects, or None) and
    a table of runs, by id: notebook, dataset, profile, status, begun, seconds, revision, and the parameters that are
    not the same in all runs of their notebook.
    """
    import pandas as pd

    numbers, runs, values = [], {}, {}
    for folder in folders:
        about = read_json(folder / "manifest.json")
        kinds = {"parameters": dict, "expectations": list, "git": dict, **dict.fromkeys(("id", *SHOWN[:4]), str)}
        wrong = [key for key, kind in kinds.items() if not isinstance(about.get(key, kind()), kind | None)]
        if wrong or not all(_is_number(v) for v in read_json(folder / "metrics.json").values()):
            msg = f"{folder} holds a manifest or numbers that no run writes: leave {folder.name} out, or run it again"
            raise InputError(msg)
        if "notebook" not in about or about.get("id") in runs:
            continue
        metrics, name = read_json(folder / "metrics.json"), about.get("id", folder.name)
        checks = {
            c["key"]: c.get("inside")
            for c in (about.get("expectations") or [])
            if isinstance(c, dict) and isinstance(c.get("key"), str)
        }
        for key, value in metrics.items():
            if not key.endswith((".lo", ".hi")):
                bounds = (metrics.get(f"{key}.lo"), metrics.get(f"{key}.hi"))
                numbers.append((name, key, value, *bounds, checks.get(key)))
        shown = {k: about.get(k) for k in SHOWN}
        shown["revision"] = str((about.get("git") or {}).get("revision", ""))[:12]
        runs[name], values[name] = shown, (about.get("parameters") or {})
    if not runs:
        msg = f"none of {len(list(folders))} folders holds a run that says its notebook"
        raise InputError(msg)
    table = pd.DataFrame.from_dict(runs, orient="index")
    for name in _varied(values, table["notebook"].to_dict()):
        table[name] = [_level(values[run].get(name)) for run in table.index]
    return pd.DataFrame(numbers, columns=["run", "key", "value", "lo", "hi", "inside"]), table


def _varied(values: dict[str, dict], notebook: dict[str, str]) -> list[str]:
    """Names of parameters that differ between runs of one notebook, in the order of their declaration."""
    names = dict.fromkeys(name for given in values.values() for name in given if name not in HIDDEN)
    levels = {name: {} for name in names}
    for run, given in values.items():
        for name, value in given.items():
            if name in levels:
                levels[name].setdefault(notebook[run], set()).add(json.dumps(value, sort_keys=True, default=str))
    return [name for name in names if any(len(found) > 1 for found in levels[name].values())]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and abs(value) < 1e300)


def _level(value: Any) -> Any:
    return value if isinstance(value, int | float | str) or value is None else json.dumps(value, default=str)


def beside(numbers: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """A row per key and combination of what was varied except the seed: n seeds, mean, lowest and highest over seeds,
    and the interval where one run gave it."""
    import pandas as pd

    factors = factors_of(runs)
    table = numbers.merge(runs[[*factors, *(["seed"] if "seed" in runs else [])]], left_on="run", right_index=True)
    table["value"] = pd.to_numeric(table["value"])
    groups = table.groupby(["key", *factors], sort=False, dropna=False)
    shown = groups["value"].agg(n="size", mean="mean", lowest="min", highest="max")
    single = shown["n"] == 1
    for bound in ("lo", "hi"):
        shown[bound] = pd.to_numeric(groups[bound].first()).where(single)
    shown["outside"] = groups["inside"].agg(lambda v: int((v == False).sum()))  # noqa: E712
    return shown.reset_index()


def factors_of(runs: pd.DataFrame) -> list[str]:
    """What was varied, the seed left out: parameters, data set and profile where there are two or more."""
    fixed = ("notebook", "status", "begun", "seconds", "revision", "seed")
    return [c for c in runs.columns if c not in fixed and runs[c].nunique(dropna=False) > 1]


def write(paths: Iterable[str | Path], to: str | Path, *, title: str = "Runs beside each other") -> tuple[Path, Path]:
    """Compare the runs in and below `paths`: writes <to>/comparison.html and <to>/comparison.csv, returns both."""
    numbers, runs = collect(find_runs(paths))
    table = beside(numbers, runs)
    page, flat = Path(to) / "comparison.html", Path(to) / "comparison.csv"
    with atomic_path(flat) as aside:
        _no_formulas(numbers.merge(runs, left_on="run", right_index=True)).to_csv(aside, index=False)
    with atomic_path(page) as aside:
        aside.write_text(_page(title, table, runs), encoding="utf-8")
    return page, flat


def _no_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """The same, with ' before text and headings that a spreadsheet program would take for a formula; numbers stay."""

    def plain(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

    return table.map(plain).rename(columns=plain)


def lines(paths: Iterable[str | Path]) -> list[str]:
    """The same table, to read in a terminal."""
    table = beside(*collect(find_runs(paths)))
    return table.round(4).to_string(index=False).splitlines()


def _page(title: str, table: pd.DataFrame, runs: pd.DataFrame) -> str:
    curves = "".join(_curve(table, factor, key) for factor, key in _curves(table, runs))
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(title)}</h1><p>{len(runs)} runs. A value of one run stands with its own 95 % interval, of ",
        "several seeds as their mean with the lowest and the highest.</p><h2>Numbers</h2>",
        table.round(4).to_html(index=False, na_rep="", escape=True, border=0),
        f"<h2>Curves</h2>{curves}" if curves else "",
        "<h2>Runs</h2>",
        runs.reset_index(names="run").to_html(index=False, na_rep="", escape=True, border=0),
        "</html>",
    ]
    return "".join(parts)


def _curves(table: pd.DataFrame, runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of a numeric factor with at least two levels and a key that varies with it; AT_MOST of them."""
    numeric = [f for f in factors_of(runs) if runs[f].map(lambda v: isinstance(v, int | float)).all()]
    pairs = [
        (factor, key)
        for factor in numeric
        for key, rows in table.groupby("key", sort=False)
        if rows[factor].nunique() > 1 and rows["mean"].nunique() > 1
    ]
    return pairs[:AT_MOST]


def _curve(table: pd.DataFrame, factor: str, key: str) -> str:
    """One curve as an image that lies in the page itself, a line per combination of the other factors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 2.8), layout="constrained")
    ax = figure.subplots()
    first = list(table.columns).index("n")
    others = [c for c in table.columns[1:first] if c != factor]
    rows = table[table["key"] == key]
    for name, line in rows.groupby(others, sort=False, dropna=False) if others else [((), rows)]:
        line = line.sort_values(factor)
        low, high = (line[a].fillna(line[b]) for a, b in (("lo", "lowest"), ("hi", "highest")))
        label = ", ".join(f"{o}={v}" for o, v in zip(others, name, strict=True))
        (drawn,) = ax.plot(line[factor], line["mean"], "o-", ms=3, label=label.replace("$", r"\$") or None)
        ax.fill_between(line[factor], low, high, alpha=0.2, color=drawn.get_color(), lw=0)
    ax.set(xlabel=factor.replace("$", r"\$"), title=key.replace("$", r"\$"))
    if others:
        ax.legend(frameon=False, fontsize=7)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    text = html.escape(f"{key} against {factor}", quote=True)
    return f'<img alt="{text}" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'
