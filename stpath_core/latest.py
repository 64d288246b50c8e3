"""runs/latest: the merge of the newest successful runs, computed afresh from the run folders each time.

The newest run per (notebook, data set, profile) counts, whatever parameters it was given; where two of them report
the same key the newer one wins. Smoke runs, failed runs and runs of edited cells never enter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stpath_core.manifest import read_json, write_json

PARTS = {
    "part1.seconds": ("10", "11", "12", "13", "14"),
    "part2.seconds": ("20", "21", "22", "23"),
    "part3.seconds": ("30", "31", "32", "33"),
    "together.seconds": ("40",),
}


def merge(runs: Path) -> dict[str, Any]:
    """Rewrite `<runs>/latest/metrics.json` and `sources.json`; returns the metrics."""
    newest: dict[tuple[str, ...], dict[str, Any]] = {}
    for manifest in sorted((read_json(p) for p in runs.glob("*/manifest.json")), key=lambda m: m.get("used", "")):
        if manifest.get("status") == "complete" and manifest["profile"] != "smoke" and manifest.get("exact"):
            kind = (manifest["notebook"], manifest["dataset"], manifest["profile"])
            newest.pop(kind, None)  # so that the newest is also the last one merged
            newest[kind] = manifest
    metrics: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for manifest in newest.values():
        for key, value in read_json(runs / manifest["id"] / "metrics.json").items():
            if manifest["dataset"] == "virtual" or names_data(key, manifest["dataset"]):
                metrics[key], sources[key] = value, manifest["id"]
    metrics |= _seconds(list(newest.values()), sources)
    if metrics or (runs / "latest").exists():
        write_json(runs / "latest" / "metrics.json", dict(sorted(metrics.items())))
        write_json(runs / "latest" / "sources.json", dict(sorted(sources.items())))
    return metrics


def names_data(key: str, dataset: str) -> bool:
    """Whether a key says that it comes from real data: it carries the data set's name, or the word real."""
    words = key.replace("_", ".").split(".")
    return dataset in [*words, *key.split(".")] or "real" in words


def _seconds(manifests: list[dict[str, Any]], sources: dict[str, str]) -> dict[str, float]:
    """A part's seconds: the summed wall time of its notebooks' newest virtual cpu runs, once all exist."""
    runs = {m["notebook"][:2]: m for m in manifests if m["dataset"] == "virtual" and m["profile"] == "cpu"}
    whole = {key: [runs[n] for n in numbers] for key, numbers in PARTS.items() if all(n in runs for n in numbers)}
    sources |= {key: ", ".join(run["id"] for run in part) for key, part in whole.items()}
    return {key: round(sum(run["seconds"] for run in part), 1) for key, part in whole.items()}


def report_lines(runs: Path) -> list[str]:
    """runs/latest as lines to read: value, interval, whether it lies where the notebook expects it, and the run."""
    metrics, sources = read_json(runs / "latest" / "metrics.json"), read_json(runs / "latest" / "sources.json")
    if not metrics:
        return [f"no numbers in {runs / 'latest'} yet: `stpath run all` makes them"]
    checks = {
        check["key"]: check
        for run in sorted(set(sources.values()))
        for check in read_json(runs / run / "manifest.json").get("expectations", [])
        if sources.get(check["key"]) == run
    }
    names = [key for key in metrics if not key.endswith((".lo", ".hi"))]
    width = max(map(len, names))
    return [f"{name:<{width}}  {_shown(metrics, name):<26}{_judged(checks.get(name))}".rstrip() for name in names]


def _shown(metrics: dict[str, Any], name: str) -> str:
    def text(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.4g}"

    if f"{name}.lo" in metrics:
        return f"{text(metrics[name])} [{text(metrics[f'{name}.lo'])}, {text(metrics[f'{name}.hi'])}]"
    return text(metrics[name])


def _judged(check: dict[str, Any] | None) -> str:
    if check is None:
        return ""
    word = "as expected" if check["inside"] else "OUTSIDE"
    return f"{word}, {check['low']:.4g} to {check['high']:.4g}"
