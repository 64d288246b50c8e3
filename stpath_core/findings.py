"""One page of findings: what the papers claim, what was published, and what our newest runs say to the same question.

Claims and published figures stand in data/claims.yaml, with who says so. Our numbers are read from the records of runs
and from committed studies; where neither has one, the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stpath_core.errors import InputError
from stpath_core.evaluate import bootstrap
from stpath_core.io.registry import DATA_FOLDER
from stpath_core.manifest import read_json

if TYPE_CHECKING:
    import pandas as pd

NOT_RUN = "not run here"
FIELDS = ("part", "claim", "paper", "published", "virtual", "real", "lead", "against")
PARTS = {1: "Nuclei", 2: "Expression", 3: "Recognition", 4: "Together"}


@dataclass(frozen=True)
class Number:
    """A mean with its interval, where there is one. of : "run", or the study that it comes from."""

    mean: float
    lo: float | None = None
    hi: float | None = None
    of: str = "run"

    def __str__(self) -> str:
        text = _short(self.mean)
        text += f" [{_short(self.lo)}, {_short(self.hi)}]" if self.lo is not None and self.hi is not None else ""
        return text + ("" if self.of == "run" else f" ({self.of})")


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.1f}"


def read_claims(path: str | Path = DATA_FOLDER / "claims.yaml") -> list[dict[str, Any]]:
    """The claims, each with FIELDS."""
    claims = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    for claim in claims:
        missing = [name for name in FIELDS if name not in claim]
        if missing:
            message = f"{Path(path).name}: the claim {claim.get('claim')!r} lacks {', '.join(missing)}"
            raise InputError(message)
    return claims


def known_numbers(
    runs: str | Path, own: Mapping[str, float | None] | None = None, *, results: str | Path = DATA_FOLDER / "results"
) -> dict[str, Number]:
    """Key -> number: of the newest runs in <runs>/latest, overridden by `own`; else of a study, with the seed as unit.

    own : the metrics of the run that asks. A committed study counts where it has columns seed, key and value.
    """
    import pandas as pd

    latest = read_json(Path(runs) / "latest" / "metrics.json")
    kept = {
        key: value for key, value in latest.items() if key.removesuffix(".lo").removesuffix(".hi") not in (own or {})
    }
    metrics = kept | dict(own or {})
    found = {}
    for path in sorted(Path(results).glob("*.csv")):
        table = pd.read_csv(path)
        if {"seed", "key", "value"} <= set(table):
            for key, rows in table.groupby("key"):
                by_seed = rows.groupby("seed")["value"].mean()
                found[key] = Number(*bootstrap(by_seed.to_numpy()), of=f"{len(by_seed)} seeds")
    for key, value in metrics.items():
        if value is not None and not key.endswith((".lo", ".hi")):
            found[key] = Number(float(value), metrics.get(f"{key}.lo"), metrics.get(f"{key}.hi"))
    return found


def verdict(lead: str | Sequence[str] | None, against: str, numbers: Mapping[str, Number]) -> str:
    """A sentence: whether the first exceeds the second, by a difference with its interval, or by two intervals.

    lead : key of a difference, or the keys of both. Two intervals that overlap decide nothing.
    """
    keys = [lead] if isinstance(lead, str) else list(lead or ())
    if not keys or any(key not in numbers for key in keys):
        return f"{NOT_RUN.capitalize()}."
    if len(keys) == 1:
        gap = numbers[keys[0]]
        if gap.lo is None or gap.hi is None:
            return f"Undecided: {gap} over {against}, without an interval."
        word = "Holds" if gap.lo > 0 else "Fails" if gap.hi < 0 else "Not shown"
        return f"{word}: {gap} over {against}."
    first, second = (numbers[key] for key in keys)
    size = f"{Number(first.mean)} against {Number(second.mean)} of {against}"
    if None in (first.lo, first.hi, second.lo, second.hi):
        return f"Undecided: {size}, without intervals."
    word = "Holds" if first.lo > second.hi else "Fails" if first.hi < second.lo else "Not shown (intervals overlap)"
    return f"{word}: {size}."


def table(numbers: Mapping[str, Number], claims: Sequence[Mapping[str, Any]] | None = None) -> pd.DataFrame:
    """A row per claim: part, claim, published, on virtual tissue, on real data, verdict."""
    import pandas as pd

    rows = []
    for claim in read_claims() if claims is None else claims:
        ours = {where: _cell(claim[where], numbers) for where in ("virtual", "real")}
        judged = [
            f"{name}: {sentence[0].lower()}{sentence[1:]}" if where == "real" else sentence
            for where, name in (("virtual", "Virtual"), ("real", "Real"))
            if where in claim["lead"]
            for sentence in [verdict(claim["lead"][where], claim["against"][where], numbers)]
            if where == "virtual" or claim["real"]
        ]
        published = f"{claim['published']} ({claim['paper']})"
        rows.append((PARTS[claim["part"]], claim["claim"], published, ours["virtual"], ours["real"], " ".join(judged)))
    return pd.DataFrame(rows, columns=["part", "claim", "published", "virtual tissue", "real data", "verdict"])


def _cell(shown: Mapping[str, str], numbers: Mapping[str, Number]) -> str:
    """What one cell of the table says: numbers with their words, or that nothing was run, or that nothing could be."""
    if not shown:
        return "no data at hand"
    there = [f"{words} {numbers[key]}" for words, key in shown.items() if key in numbers]
    return "; ".join(there) if there else NOT_RUN


def page(found: pd.DataFrame) -> str:
    """The page as markdown: a table for each part, with the claim, the numbers side by side, and the verdict."""
    lines = ["# Findings", ""]
    lines += ["Numbers in brackets are 95 % intervals over patients, slides or images. Published figures are of other "
              "data: they say how large such numbers are, not who is better.", ""]  # fmt: skip
    columns = [name for name in found if name != "part"]
    for part, rows in found.groupby("part", sort=False):
        lines += [f"## {part}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += ["| " + " | ".join(str(v).replace("|", "/") for v in row) + " |" for row in rows[columns].to_numpy()]
        lines.append("")
    return "\n".join(lines)
