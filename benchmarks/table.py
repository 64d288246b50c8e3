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
    lines = ["| work | size | peer | peer's time over ours | goal | compared |", "|---|---|---|---|---|---|"]
    for path in sorted(RESULTS.glob("speed_*.json")):
        for row in json.loads(path.read_text())["comparisons"]:
            ratio = short(row["ratio"]) if "ratio" in row else f"not measured: {row['not_measured']}"
            goal = f"{row['goal']:g}{'' if row.get('met') else ', missed'}" if "goal" in row else ""
            ratio += f" (ours is {row['share']:.0%} of it)" if "share" in row else ""
            lines.append(
                f"| {row['subject']} | {row['size']} | {row['peer']} | {ratio} | {goal} | {row.get('equal', '')} |"
            )
    return lines + encoder_rows()


def encoder_rows() -> list[str]:
    """The race of the gene encoder, a row per size and way to train."""
    ways = {
        "an epoch of one step": ("ratio_per_epoch", "ours"),
        "its whole training": ("ratio_whole_training", "ours"),
        "an epoch in steps of 256": ("ratio_per_epoch_256", "ours_256"),
        "that whole training": ("ratio_whole_training_256", "ours_256"),
    }  # fmt: skip
    lines = []
    for one in json.loads(ENCODER.read_text())["sizes"]:
        for what, (key, whose) in ways.items():
            goal = ""
            if key == "ratio_per_epoch":
                goal = f"{one['goal']:g}{'' if one['met'] else ', missed'}"
            size = f"{one['spots']:,} spots x {one['genes']:,} genes"
            lines.append(
                f"| gene encoder, {what} | {size} | scvi-tools | {short(one[key])} | {goal} | {scores(one, whose)} |"
            )
    return lines


def scores(one: dict, whose: str) -> str:
    """What two encoders are worth, theirs in brackets."""
    ours, theirs = one[whose], one["scvi_tools"]
    worth = {"likelihood": ",.0f", "mixing": ".2f", "label_f1": ".2f"}
    return ", ".join(f"{name.replace('_', ' ')} {ours[name]:{of}} ({theirs[name]:{of}})" for name, of in worth.items())


def slopes() -> list[str]:
    """A row per curve."""
    lines = ["| work | unit | slope of time | of its upper half (goal 1.1) | of peak memory |", "|---|---|---|---|---|"]
    for row in json.loads((RESULTS / "scaling.json").read_text())["slopes"]:
        whole, upper, memory = (f"{row[key]:.2f}" for key in ("slope_time", "slope_time_upper", "slope_peak_memory"))
        upper += "" if row["linear_or_better"] else ", missed"
        lines.append(f"| {row['what'].replace('_', ' ')} | {row['unit']} | {whole} | {upper} | {memory} |")
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


def frozen(record: Path = RESULTS / "gpu_frozen.json") -> list[str]:
    """Frozen encoders of spots on a GPU, a row each; one line where nothing was measured."""
    if not record.is_file():
        return ["Frozen encoders (ViT-S/16 and ViT-L/16, 224 px, bfloat16): not measured, `benchmarks/gpu_frozen.py`."]
    told = json.loads(record.read_text())
    lines = [f"{told['card'] or 'No GPU: a processor'}, torch {told['versions']['torch']}, {told['day']}.", ""]
    lines += ["| frozen encoder | batch | patches per second | of the encoder alone |", "|---|---|---|---|"]
    for row in told["rows"]:
        goal = "" if row["met"] else f" (goal {row['goal']:g}, missed)"
        lines.append(f"| {row['encoder']} | {row['batch']} | {short(row['per_s'])} | {row['ratio']:.2f}{goal} |")
    return lines


def large(record: Path = RESULTS / "large.json") -> list[str]:
    """What went through in parts, a row per stage, and two workers beside one; one line where nothing was measured."""
    if not record.is_file():
        return ["Not measured: no record is kept here. `python benchmarks/large.py` makes one."]
    told = json.loads(record.read_text())
    whole, same, ratio = told["whole"], told["equal"], told["ratio"]
    of = {"labels": f"{whole['transcripts']:,} transcripts", "patches": "patches of 112 um",
          "inference": f"{whole['side_px']:,} x {whole['side_px']:,} px"}  # fmt: skip
    lines = ["| stage | of | gives | seconds | peak memory, MiB |", "|---|---|---|---|---|"]
    for row in told["comparisons"]:
        first = f"| {row['stage']} | {of[row['stage']]} |"
        if "not_measured" in row:
            lines.append(f"{first} not measured: {row['not_measured']} | | |")
            continue
        gives = f"{row['spots']:,} spots" if "spots" in row else f"{row['nuclei']:,} nuclei"
        peak = f"{row['peak_mib']:,.0f}{'' if row['peak_mib'] <= told['limit_mib'] else ' (over the limit)'}"
        before = row.get("tiles_of_an_interrupted_run")
        rest = f" (without {before} tiles of an interrupted run)" if before else ""
        lines.append(f"{first} {gives} | {row['seconds']:,.0f}{rest} | {peak} |")
    if "not_measured" in ratio:
        two = f"Two workers beside one: not measured, {ratio['not_measured']}."
    else:
        missed = "" if ratio["met"] else ", missed"
        two = (
            f"Inference on two workers of a local Dask cluster took {ratio['two_s']:.0f} s, on one "
            f"{ratio['one_s']:.0f} s: {ratio['ratio']:.2f} times as fast (goal {ratio['goal']:g}{missed})."
        )
    machine = f"{told['machine']['cores']} cores, load {told['machine']['load_at_the_end']:g} at the end"
    said = (
        f"{whole['tissue'] / whole['units'] ** 2:.0%} of the slide is tissue. With {same['side_px']:,} x "
        f"{same['side_px']:,} px and {same['transcripts']:,} transcripts all three came out as in memory. {two} "
        f"{told['day']}, {machine}."
    )
    return [said, "", *lines]


def took(record: Path = RESULTS / "bench.json") -> str:
    """How long `make bench` took, in a sentence."""
    if not record.is_file():
        return "How long all took together is not on record."
    told = json.loads(record.read_text())
    each = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in told["seconds"].items())
    return (
        f"All together took {sum(told['seconds'].values()) / 60:.0f} minutes (limit {told['limit'] / 60:.0f}): {each}."
    )


def tables() -> str:
    """All, with what must be known to read them."""
    of = [json.loads(path.read_text()) for path in (*sorted(RESULTS.glob("*.json")), ENCODER)]
    made = f"Revisions {', '.join(sorted({one['revision'] for one in of}))}, {max(one['day'] for one in of)}."
    text = [made, took(), "", *races(), "", "## Against more work", ""]
    said = "Slopes of the log-log fit over two decades (1 is linear), processor seconds, a process for each point."
    text += [f"{said} Memory includes what the libraries hold before any work.", "", *slopes()]
    said = "`benchmarks/gpu.py`: throughput of training beside forward and backward passes alone, and what was reached."
    what = (
        "`python benchmarks/large.py`, by itself: a stage a process, its peak with everything that the libraries hold."
    )
    text += ["", "## Larger than memory", "", what, "", *large()]
    text += ["", "## On a GPU", "", said, "", *cards()]
    compiled = RESULTS / "gpu_compiled.json"
    text += ["", *cards(compiled)] if compiled.is_file() else []
    text += ["", *frozen()]
    return "\n".join(text)


def page(old: str) -> str:
    """The README with its tables as the results give them."""
    before, rest = old.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(page(README.read_text()))
