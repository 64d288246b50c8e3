"""The command `stpath`."""

from __future__ import annotations

import argparse
import errno
import functools
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from stpath_core import __version__, datasets
from stpath_core.cli_help import (
    BUNDLE,
    EXIT_CODES,
    FIT,
    PACK,
    PREDICT_EXAMPLES,
    REPORT,
    RUN_EXAMPLES,
    START,
    SWEEP,
    TEACH,
)
from stpath_core.errors import InputError, StpathError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="stpath",
        description="Run and check the stpath tutorials, and use what they train.",
        epilog=START + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"stpath {__version__}")
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str, function: Any, more: str = "") -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=more + EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.set_defaults(function=function)
        return made

    run = command("run", "run notebooks and record what they find", _run, RUN_EXAMPLES)
    run.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help='number ("11"), name, or "all"')
    run.add_argument("-p", dest="values", action="append", default=[], metavar="NAME=VALUE", help="a parameter; repeat")
    run.add_argument("-f", dest="file", type=Path, metavar="FILE.yaml", help="parameters from a YAML file; -p wins")
    run.add_argument("--profile", help="smoke, cpu or gpu: how large a run (default: cpu)")
    run.add_argument("--seed", help="tissue and training seed (default: 0)")
    run.add_argument("--out", help="folder in which run folders are made (default: runs)")
    run.add_argument(
        "--reuse", action="store_true", help="skip notebooks whose code, inputs and parameters are unchanged"
    )

    report = command("report", "show the numbers of the newest successful runs, or compare some", _report, REPORT)
    report.add_argument("runs", nargs="*", metavar="RUN", help="run folders, or folders of runs (default: the newest)")
    report.add_argument("--out", default="", help="folder of the runs (default: runs)")
    report.add_argument("--to", type=Path, metavar="DIR", help="where the comparison goes, as HTML and CSV")

    sweep = command("sweep", "run notebooks over a grid of parameters, and compare what they find", _sweep, SWEEP)
    sweep.add_argument("file", type=Path, metavar="GRID.yaml", help="notebooks, grid and fixed values")
    sweep.add_argument("--workers", type=int, default=1, help="points at a time on this machine (default: 1)")
    sweep.add_argument("--scheduler", default="", metavar="ADDRESS", help="a Dask scheduler, as tcp://host:8786")
    sweep.add_argument("--out", default="", help="folder of all points (default: runs/sweeps/GRID)")

    predict = command(
        "predict-nuclei", "outline and type the nuclei of images with a trained network", _predict, PREDICT_EXAMPLES
    )
    predict.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a .safetensors file written by notebook 11"
    )
    predict.add_argument(
        "images", type=Path, metavar="IMAGES", help="an image, or a folder of PNG, JPEG or TIFF images"
    )
    predict.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for labels/, GeoJSON and nuclei.csv"
    )
    predict.add_argument("--mpp", type=float, help="micrometres per pixel, for images that do not say so themselves")
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    predict.add_argument(
        "--scheduler", default="", metavar="ADDRESS", help="a Dask scheduler for slides that are larger than memory"
    )

    fit = command("fit", "train on a packed stage file, on a GPU or several", _fit, FIT)
    fit.add_argument(
        "stage", type=Path, metavar="STAGE.h5", help="a file of `stpath pack`, or nuclei.h5 of notebook 10"
    )
    fit.add_argument("--profile", default="cpu", help="smoke, cpu or gpu: how large a run (default: cpu)")
    fit.add_argument("--steps", type=int, help="optimiser steps of each network (default: what the profile says)")
    fit.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    fit.add_argument("--seed", type=int, default=0, help="training seed (default: 0)")
    fit.add_argument(
        "--out", type=Path, default=Path("fitted"), metavar="DIR", help="for the results (default: fitted)"
    )
    fit.add_argument("--holdout", nargs="+", default=[], metavar="NAME", help="sections to hold out (nuclei alone)")
    fit.add_argument("--folds", type=int, help="train the first so many folds alone (default: all)")
    fit.add_argument(
        "--workers", type=int, help="threads that prepare batches (default: the spare cores on a GPU, else 0)"
    )
    fit.add_argument("--compile", action="store_true", help="torch.compile the networks with encoders")

    pack = command("pack", "pack one file to take to a GPU, for `stpath fit`", _pack, PACK)
    pack.add_argument(
        "part", choices=("nuclei", "spots", "recognition"), metavar="PART", help="nuclei, spots, recognition"
    )
    pack.add_argument("--to", type=Path, required=True, metavar="FILE.h5", help="the file to write")
    pack.add_argument("--dataset", default="virtual", help="as the notebooks were run (default: virtual)")
    pack.add_argument("--data-dir", default="", metavar="DIR", help="images with instance masks (nuclei alone)")
    pack.add_argument("--mpp", type=float, help="micrometres per pixel of those images, if nothing else says it")
    pack.add_argument(
        "--most", type=int, default=0, help="pack so many sections alone, a third held out (nuclei alone)"
    )

    data = command("data", "list, download, verify and find public data sets", _data, datasets.HELP)
    data.add_argument("action", choices=datasets.ACTIONS, metavar="ACTION", help="list, get, verify or path")
    data.add_argument("name", nargs="?", metavar="NAME", help="a data set, as `stpath data list` names it")
    data.add_argument("--to", default="", metavar="DIR", help="folder of all data sets (default: data/cache/datasets)")

    teach = command("teach", "write students' and instructors' versions of notebooks", _teach, TEACH)
    teach.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help='number, name, or "all"')
    teach.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for student/ and instructor/")
    teach.add_argument("--slides", action="store_true", help="write slides/, too: HTML that needs no network")

    bundle = command("bundle", "pack all that a room without a network needs into one folder", _bundle, BUNDLE)
    bundle.add_argument("folder", type=Path, metavar="DIR", help="a new folder, or that of an older bundle")

    command("doctor", "check that this machine can run the tutorials, and say what to mend", _doctor)
    sync = command("sync", "bring each .ipynb up to its .py, by content; the .py wins", _sync)
    sync.add_argument("--check", action="store_true", help="change nothing; fail when a pair differs or is stale")
    fill = command("notebooks", "run every notebook at the cpu profile and keep the outputs in the .ipynb", _notebooks)
    fill.add_argument("notebooks", nargs="*", default=["all"], metavar="NOTEBOOK", help="number or name (default: all)")
    fill.add_argument(
        "--reuse", action="store_true", help="keep the outputs of runs that are unchanged, run the others"
    )
    return top


def main(words: list[str] | None = None) -> int:
    """Entry point. Returns the exit code."""
    words = sys.argv[1:] if words is None else words
    if not words:
        parser().print_help(sys.stderr)
        return USAGE
    arguments = parser().parse_args(words)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return arguments.function(arguments)
    except InputError as error:
        _complain(error)
        return USAGE
    except StpathError as error:
        _complain(error)
        return FAILED
    except KeyboardInterrupt:
        print("stpath: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED
    except OSError as error:  # a full disk, a folder that cannot be written
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = ": free some space, or give --out on another disk, and run it again"
        _complain(f"{error}{hint if full else ''}")
        return FAILED


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _run(arguments: argparse.Namespace) -> int:
    from stpath_core import parameters, run

    texts: dict[str, str] = {}
    for text in arguments.values:
        name, equals, value = text.partition("=")
        if not equals:
            msg = f"-p {text} has no value; write -p {text}=VALUE"
            raise InputError(msg)
        texts[name.strip()] = value
    texts |= {k: v for k in ("profile", "seed", "out") if (v := getattr(arguments, k)) is not None}
    values = parameters.read_parameter_file(arguments.file) if arguments.file else None
    planned = run.plan(arguments.notebooks, texts, values)
    return _exit_code(run.run_planned(planned, reuse=arguments.reuse, say=_say))


def _exit_code(outcomes: list[Any]) -> int:
    states = {outcome.status for outcome in outcomes}
    if "interrupted" in states:
        return INTERRUPTED
    return FAILED if states & {"failed", "not run"} else OK


def _report(arguments: argparse.Namespace) -> int:
    from stpath_core import comparison, latest, stages

    if arguments.runs:
        for line in comparison.lines(arguments.runs):
            _say(line)
        if arguments.to:
            _say(f"wrote {', '.join(map(str, comparison.write(arguments.runs, arguments.to)))}")
        return OK
    runs = stages.runs_folder(arguments.out)
    latest.merge(runs)
    for line in latest.report_lines(runs):
        _say(line)
    return OK


def _sweep(arguments: argparse.Namespace) -> int:
    from stpath_core import comparison, sweep

    points, folder = sweep.plan(arguments.file, arguments.out)
    ended = sweep.sweep(points, workers=arguments.workers, scheduler=arguments.scheduler, say=_say)
    made = [point.folder for point in points if ended[point.name] != "failed"]
    if made:
        page, _ = comparison.write(made, folder, title=f"Sweep {arguments.file.stem}")
        _say(f"compared: {page}")
    return FAILED if "failed" in ended.values() else OK


def _predict(arguments: argparse.Namespace) -> int:
    from stpath_core.predict_folder import predict_folder
    from stpath_core.progress import track

    progress = functools.partial(track, label="images")
    options = {"mpp": arguments.mpp, "device": arguments.device, "progress": progress, "tell": _warn}
    options |= {"scheduler": arguments.scheduler, "tile_progress": functools.partial(track, label="tiles")}
    _say(f"wrote {predict_folder(arguments.checkpoint, arguments.images, arguments.out, **options)}")
    return OK


def _fit(arguments: argparse.Namespace) -> int:
    from stpath_core import stage_fit

    stage_fit.command(arguments, _say)
    return OK


def _pack(arguments: argparse.Namespace) -> int:
    from stpath_core import pack

    pack.command(arguments, _say)
    return OK


def _data(arguments: argparse.Namespace) -> int:
    return OK if datasets.command(arguments.action, arguments.name, arguments.to, say=_say) else FAILED


def _teach(arguments: argparse.Namespace) -> int:
    from stpath_core import teach

    teach.write(arguments.notebooks, arguments.to, slides=arguments.slides, say=_say)
    return OK


def _bundle(arguments: argparse.Namespace) -> int:
    from stpath_core import offline

    offline.write(arguments.folder, say=_say)
    return OK


def _doctor(arguments: argparse.Namespace) -> int:
    del arguments
    from stpath_core import doctor

    return OK if doctor.tell(doctor.examine(), say=_say) else FAILED


def _sync(arguments: argparse.Namespace) -> int:
    from stpath_core import pairing

    return OK if pairing.sync_all(check=arguments.check, say=_say) else FAILED


def _notebooks(arguments: argparse.Namespace) -> int:
    from stpath_core import pairing

    return _exit_code(pairing.fill(arguments.notebooks, reuse=arguments.reuse, say=_say))


def _warn(line: str) -> None:
    print(f"stpath: {line}", file=sys.stderr, flush=True)


def _say(line: str) -> None:
    print(_readable(line), flush=True)


def _complain(error: Exception | str) -> None:
    print(f"stpath: {_readable(str(error))}", file=sys.stderr)


def _readable(text: str) -> str:
    """Text without what would steer the terminal: runs, files and names may be a stranger's."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


if __name__ == "__main__":
    raise SystemExit(main())
