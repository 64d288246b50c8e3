"""Run Part 1 on several tissues, on some of them with several training seeds, and write what its claims rest on.

    python benchmarks/study_part1.py        # eleven runs, about four minutes each on two cores

Runs notebooks 10, 11, 12 and 14 at the cpu profile; what is unchanged is reused, so an interrupted study goes on where
it stopped. Writes data/results/part1_seeds.csv, a row per tissue seed, training seed and key, with the revision and
the day of the run; all runs or nothing.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from stpath_core import manifest, stages
from stpath_core.io.files import atomic_path

NOTEBOOKS = ("10", "11", "12", "14")  # the first trains nothing, and is run once a tissue
TYPING_KEYS = (
    "part1.typing.virtual_accuracy", "part1.typing.virtual_coverage", "part1.typing.virtual_accuracy.recipe",
)  # fmt: skip
KEYS = (
    "part1.unseen.detection_f1", "part1.unseen.bpq", "part1.unseen.classical.bpq",
    "part1.unseen.type_f1.image_oriented", "part1.unseen.type_f1.shuffled", "part1.unseen.type_f1.colour",
    "part1.labels.merged_abstain", "part1.labels.merged_all", "part1.labels.fine_abstain", "part1.labels.fine_all",
    "part1.unseen.type_f1.recipe", "part1.labels.over_fine_merged", "part1.labels.over_recipe",
    "part1.effort.tiles_to_match", "part1.effort.tiles_to_match.bpq",
    *(f"part1.effort.{m}.{arm}" for m in ("type_f1", "bpq") for arm in ("slide", "tiles_5", "tiles_40")),
    *(f"part1.label_errors.{arm}" for arm in ("random_20", "random_40", "soft", "weighed_by_purity", "forgiving",
                                              "recipe", "recipe_forgiving")),
)  # fmt: skip


TISSUES, REPEATED = range(5), range(3)  # each with its own training seed, and three with all three


def runs() -> list[tuple[int, int]]:
    """Tissue seed and training seed of every run."""
    return sorted({(k, k) for k in TISSUES} | {(tissue, training) for tissue in REPEATED for training in REPEATED})


def one_run(seed: int, training: int) -> None:
    """Run the notebooks into a folder of runs of their own."""
    named = NOTEBOOKS if seed == training else NOTEBOOKS[1:]
    words = [sys.executable, "-m", "stpath_core", "run", *named, "--reuse", "--seed", str(seed)]
    words += ["-p", f"training_seed={training}", "--out", str(folder_of(seed, training))]
    subprocess.run(words, check=True)


def folder_of(seed: int, training: int) -> Path:
    return stages.home() / "runs" / f"study_seed{seed}_{training}"


def rows_of(seed: int, training: int) -> list[list]:
    """What a run found: tissue seed, training seed, key, value, revision, day."""
    folder = folder_of(seed, training)
    metrics = manifest.read_json(folder / "latest" / "metrics.json")
    done = [manifest.read_json(p) for p in folder.glob("*14_nuclei_claims*/manifest.json")]
    last = max((run for run in done if run["status"] == "complete"), key=lambda run: run["begun"])
    run = [str(last["git"].get("revision", ""))[:12], last["begun"][:10]]
    asked = (*TYPING_KEYS, *KEYS) if seed == training else KEYS
    return [[seed, training, key, f"{metrics[key]:.4f}", *run] for key in asked]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for seed, training in runs():
        one_run(seed, training)
    write([row for run in runs() for row in rows_of(*run)])


def write(rows: list[list]) -> None:
    """data/results/part1_seeds.csv, whole or not at all."""
    path = stages.home() / "data" / "results" / "part1_seeds.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["seed", "training_seed", "key", "value", "revision", "day"])
        table.writerows(rows)
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
