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


def cards(record: Path = RESULTS / "gpu.json") -> list[str]:
    """What was measured on a GPU, a row per network and file; one line where nothing was."""
    if not record.is_file():
        return ["Not measured: no record of a GPU is kept here. `docs/howto/gpu.md` says how to make one."]
    told = json.loads(record.read_text())
    with_what = f"torch {told['versions']['torch']}{', compiled' if told['compiled'] else ''}"
    lines = [f"{told['card'] or 'No GPU: a processor'}, {with_what}, profile {told['profile']}, {told['day']}.", ""]
    columns = ("network", "stage file", "batch", "per second", "of its encoder alone", "of the network alone",
               "memory, GiB", "training", "held out")  # fmt: skip
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in told["rows"]:
        first = f"| {row['part']} | {row['file']} |"
        if "not_measured" in row:
            lines.append(f"{first} not measured: {row['not_measured']} | | | | | | |")
            continue
        goal = "" if row["met"] else f" (goal {row['goal']:g}, missed)"
        ceilings = [row[name] for name in ("encoder_per_s", "network_per_s")]
        shares = [f"{row['per_s'] / ceiling:.2f}" if ceiling else "-" for ceiling in ceilings]
        shares[0 if ceilings[0] else 1] += goal
        quality = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in row["quality"].items())
        peak = "-" if row["peak_gib"] is None else f"{row['peak_gib']:g}"
        lines.append(f"{first} {row['batch']} | {short(row['per_s'])} {row['unit']} | {' | '.join(shares)} | {peak} |"
                     f" {row['steps']:,} steps, {row['train_seconds']:.0f} s | {quality} |")  # fmt: skip
    return lines


def tables() -> str:
    """All, with what must be known to read them."""
    of = [json.loads(path.read_text()) for path in (*sorted(RESULTS.glob("*.json")), ENCODER)]
    made = f"Revisions {', '.join(sorted({one['revision'] for one in of}))}, {max(one['day'] for one in of)}."
    text = [made, "", *races(), "", "## Against more work", ""]
    said = "Slopes of the log-log fit over two decades (1 is linear), processor seconds, a process for each point."
    text += [f"{said} Memory includes what the libraries hold before any work.", "", *slopes()]
    said = "`benchmarks/gpu.py`: throughput of training beside forward and backward passes alone, and what was reached."
    text += ["", "## On a GPU", "", said, "", *cards()]
    compiled = RESULTS / "gpu_compiled.json"
    text += ["", *cards(compiled)] if compiled.is_file() else []
    return "\n".join(text)


def page(old: str) -> str:
    """The README with its tables as the results give them."""
    before, rest = old.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(page(README.read_text()))
