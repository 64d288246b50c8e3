"""The tables of benchmarks/README.md, from results/*.json and the record of the gene encoder: nothing in them is typed.

python benchmarks/table.py       writes them; `make bench` does so when its races are over
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
README, RESULTS = HERE / "README.md", HERE / "results"
ENCODER = HERE.parent / "data" / "results" / "bench_gene_encoder.json"
BEGIN, END = "<!-- tables: benchmarks/table.py -->", "<!-- end of tables -->"


def short(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def races() -> list[str]:
    """A row per comparison."""
    lines = ["| work | size | peer | peer's time over ours | goal |", "|---|---|---|---|---|"]
    for path in sorted(RESULTS.glob("speed_*.json")):
        for row in json.loads(path.read_text())["comparisons"]:
            ratio = short(row["ratio"]) if "ratio" in row else f"not measured: {row['not_measured']}"
            goal = f"{row['goal']:g}{'' if row.get('met') else ', missed'}" if "goal" in row else ""
            ratio += f" (ours is {row['share']:.0%} of it)" if "share" in row else ""
            lines.append(f"| {row['subject']} | {row['size']} | {row['peer']} | {ratio} | {goal} |")
    one = json.loads(ENCODER.read_text())
    size = f"{one['spots']:,} spots x {one['genes']:,} genes"
    for what, key, goal in (("an epoch", "ratio_per_epoch", "5"), ("whole training", "ratio_whole_training", "")):
        missed = ", missed" if goal and one[key] < float(goal) else ""
        lines.append(f"| gene encoder, {what} | {size} | scvi-tools | {short(one[key])} | {goal}{missed} |")
    return lines


def slopes() -> list[str]:
    """A row per curve."""
    lines = ["| work | unit | slope of time | of its upper half | of peak memory |", "|---|---|---|---|---|"]
    for row in json.loads((RESULTS / "scaling.json").read_text())["slopes"]:
        numbers = (row[key] for key in ("slope_time", "slope_time_upper", "slope_peak_memory"))
        lines.append(f"| {row['what'].replace('_', ' ')} | {row['unit']} | {' | '.join(f'{v:.2f}' for v in numbers)} |")
    return lines


def tables() -> str:
    """Both, with what must be known to read them."""
    of = [json.loads(path.read_text()) for path in (*sorted(RESULTS.glob("*.json")), ENCODER)]
    made = f"Revisions {', '.join(sorted({one['revision'] for one in of}))}, {max(one['day'] for one in of)}."
    text = [made, "", *races(), "", "## Against more work", ""]
    said = "Slopes of the log-log fit over two decades (1 is linear), processor seconds, a process for each point."
    text += [f"{said} Memory includes what the libraries hold before any work.", "", *slopes()]
    return "\n".join(text)


def page(old: str) -> str:
    """The README with its tables as the results give them."""
    before, rest = old.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(page(README.read_text()))
