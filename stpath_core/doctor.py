"""What could keep the tutorials from running on this machine, and what to do about each.

Nothing is installed or changed: a check writes one small file where runs are kept, and removes it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stpath_core import stages

FREE_GB_FOR_RUNS = 3.0  # caches and runs of the cpu profile, with room
MIN_RAM_GB = 6.0
PYTHON_FROM = (3, 11)


@dataclass(frozen=True)
class Finding:
    """One line of the report. level: "ok", "note" (works, with a drawback) or "bad" (must be mended)."""

    name: str
    level: str
    said: str
    fix: str = ""


def examine() -> list[Finding]:
    """All checks, cheap ones first."""
    checks: list[Callable[[], Iterable[Finding]]] = [
        _python,
        _packages,
        _torch,
        _memory,
        _disk,
        _write,
        _kernel,
        _project,
    ]
    return [finding for check in checks for finding in check()]


def tell(findings: list[Finding], *, say: Callable[[str], None] = print) -> bool:
    """Say each finding with its fix; returns whether nothing must be mended."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        say(f"{finding.level:<5}{finding.name:<{width}}  {finding.said}")
        if finding.fix:
            say(f"{'':<5}{'':<{width}}  -> {finding.fix}")
    bad = sum(finding.level == "bad" for finding in findings)
    say(f"{bad} to mend" if bad else "ready")
    return not bad


def _python() -> Iterable[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_FROM:
        yield Finding("python", "bad", f"{version}; 3.11 or newer is needed", "make env PYTHON=python3.12")
    else:
        yield Finding("python", "ok", version)


def _packages() -> Iterable[Finding]:
    from stpath_core.lock import differences

    lock = stages.home() / "requirements.lock"
    if not lock.is_file():
        yield Finding(
            "packages", "note", f"no {lock.name} in {stages.home()}", "run stpath inside a clone of the project"
        )
        return
    wrong = differences(lock)
    missing = [line for line in wrong if "missing" in line]
    if not wrong:
        yield Finding("packages", "ok", "as in requirements.lock")
        return
    said = "; ".join((missing + [line for line in wrong if line not in missing])[:5])
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    yield Finding("packages", "bad" if missing else "note", said + more, "python -m pip install -r requirements.lock")


def _torch() -> Iterable[Finding]:
    program = (
        "import json, torch, torchvision; "
        "on = torch.cuda.is_available(); "
        "x = torch.ones(8, 8, device='cuda' if on else 'cpu'); "
        "assert float((x @ x).sum()) == 512; "
        "print(json.dumps([torch.__version__, torch.cuda.get_device_name() if on else '', torch.get_num_threads()]))"
    )
    done = _python_says(program)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        fix = "python -m pip install --force-reinstall -r requirements.lock (torch and torchvision must match)"
        yield Finding("torch", "bad", last, fix)
        return
    version, gpu, threads = json.loads(done.stdout)
    if gpu:
        yield Finding("torch", "ok", f"{version} on {gpu}: --profile gpu is for you")
    else:
        yield Finding("torch", "ok", f"{version} on the CPU, {threads} threads: --profile cpu is for you")


def _memory() -> Iterable[Finding]:
    import psutil

    gb = psutil.virtual_memory().available / 2**30
    if gb < MIN_RAM_GB:
        fix = "close other programs, or use --profile smoke"
        yield Finding("memory", "note", f"{gb:.1f} GB available; the cpu profile needs {MIN_RAM_GB:.0f}", fix)
    else:
        yield Finding("memory", "ok", f"{gb:.1f} GB available")


def _disk() -> Iterable[Finding]:
    for name, folder in (("disk", stages.cache_folder()), ("disk for temporary files", Path(tempfile.gettempdir()))):
        there = next(p for p in (folder, *folder.parents) if p.exists())
        gb = shutil.disk_usage(there).free / 2**30
        if gb < FREE_GB_FOR_RUNS:
            fix = "make clean removes runs and caches; STPATH_CACHE=FOLDER (or TMPDIR=FOLDER) moves them"
            yield Finding(name, "bad", f"{gb:.1f} GB free in {there}; {FREE_GB_FOR_RUNS:.0f} are needed", fix)
        else:
            yield Finding(name, "ok", f"{gb:.0f} GB free")


def _write() -> Iterable[Finding]:
    for folder in (stages.runs_folder(), stages.cache_folder()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder) as handle:
                handle.write(b"stpath")
        except OSError as error:
            fix = f"chmod -R u+w {folder}, or pass --out FOLDER and set STPATH_CACHE=FOLDER"
            yield Finding("write access", "bad", f"cannot write to {folder}: {error.strerror}", fix)
        else:
            yield Finding("write access", "ok", folder.name)


def _kernel() -> Iterable[Finding]:
    done = _python_says("import ipykernel, papermill, jupytext; print(ipykernel.__version__)")
    if done.returncode:
        yield Finding("kernel", "bad", "ipykernel, papermill or jupytext is missing", "make env")
        return
    yield Finding("kernel", "ok", f"`stpath run` uses this Python, ipykernel {done.stdout.strip()}")
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        argv = KernelSpecManager().get_kernel_spec("python3").argv
    except NoSuchKernel:
        argv = []
    if not argv or (Path(argv[0]).is_absolute() and Path(argv[0]).absolute() != Path(sys.executable).absolute()):
        said = f"JupyterLab's python3 kernel is {argv[0] if argv else 'missing'}, not this Python"
        yield Finding("kernel of JupyterLab", "note", said, f"{sys.executable} -m ipykernel install --sys-prefix")
    else:
        yield Finding("kernel of JupyterLab", "ok", "python3 is this Python")


def _project() -> Iterable[Finding]:
    names = stages.notebook_names()
    if names:
        yield Finding("notebooks", "ok", f"{len(names)} in {stages.home().name}/notebooks")
    else:
        fix = "run stpath inside a clone of the project, or set STPATH_HOME to it"
        yield Finding("notebooks", "bad", f"none in {stages.home() / 'notebooks'}", fix)


def _python_says(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter, so that a crash or a slow import stays outside this process."""
    words = [sys.executable, "-W", "ignore", "-c", program]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
