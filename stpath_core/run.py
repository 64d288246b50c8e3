"""Running notebooks: plan first (what can be refused is refused before anything starts), then execute one by one.

Each notebook is read from its .py, turned into cells in memory, and executed by papermill with the interpreter that
runs this code.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stpath_core import latest, manifest, record, stages
from stpath_core.checks import check_folder, check_values
from stpath_core.errors import InputError
from stpath_core.kernel import sockets, surroundings
from stpath_core.parameters import checked, parsed, refuse_unknown
from stpath_core.progress import CellProgress

KERNELSPEC = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


@dataclass(frozen=True)
class Planned:
    """A notebook, the values that reach it, and all values given, which reach the notebooks that it needs."""

    notebook: stages.Notebook
    given: Mapping[str, Any]
    given_to_all: Mapping[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        return self.notebook.resolve(self.given)

    @property
    def stage(self) -> Path:
        key = stages.stage_key(self.notebook, {**self.given_to_all, **self.given})
        return stages.stage_folder(self.notebook, key)


@dataclass(frozen=True)
class Outcome:
    """How one notebook ended: "ok", "reused", "failed", "not run" or "interrupted"."""

    name: str
    status: str
    folder: Path | None = None
    seconds: float = 0.0
    message: str = ""


def plan(names: Sequence[str], texts: Mapping[str, str], values: Mapping[str, Any] | None = None) -> list[Planned]:
    """Decide what runs with which values.

    names : numbers or names of notebooks, or "all"
    texts : `-p name=text`, read as the type that each notebook declares
    values : typed values from a parameter file: `name: value`, or a section `11_nuclei_train: {name: value}`

    Returns the notebooks in the order of their numbers, without those that do not serve the data set.
    Raises InputError for an unknown notebook, a name that none declares, a wrong type, no such profile or data set.
    """
    wanted = stages.notebook_names() if "all" in names else sorted({stages.find_notebook(name).name for name in names})
    notebooks = [stages.find_notebook(name) for name in wanted]
    if not notebooks:
        msg = f"no notebooks in {stages.home() / 'notebooks'}; run inside the project, or set STPATH_HOME to its folder"
        raise InputError(msg)
    sections = {key: value for key, value in (values or {}).items() if isinstance(value, dict)}
    refuse_unknown(sections, wanted, where="the parameter file's sections are notebooks that run; this command")
    for notebook in notebooks:
        refuse_unknown(sections.get(notebook.name) or {}, notebook.parameters, where=notebook.name)
    flat = {key: value for key, value in (values or {}).items() if key not in sections}
    declared = {name for notebook in notebooks for name in notebook.parameters}
    _refuse_names_of_others([*flat, *texts], declared, notebooks)
    refuse_unknown([*flat, *texts], declared, where=" or ".join(n.name for n in notebooks))
    given = [_given(notebook, texts, flat | (sections.get(notebook.name) or {})) for notebook in notebooks]
    inherited = json.loads(os.environ.get(record.GIVEN_VARIABLE) or "{}")
    to_all = inherited | {key: value for one in reversed(given) for key, value in one.items()}
    planned = [Planned(notebook, one, to_all) for notebook, one in zip(notebooks, given, strict=True)]
    able = [p for p in planned if p.notebook.serves(p.values["dataset"])]
    if not able:
        record.refuse_dataset(planned[0].notebook, planned[0].values["dataset"])
    for one in able:
        if one.values["dataset"] != "virtual" and not one.values["data_dir"]:
            msg = f"dataset={one.values['dataset']} lies in a folder of yours: say where, with -p data_dir=FOLDER"
            raise InputError(msg)
        stages.fingerprint(one.values["data_dir"] or stages.home() / "notebooks" / "params")  # data_dir must exist
        check_values(one.values, one.given)
        check_folder(stages.runs_folder(one.values["out"]))
    return able


def run_planned(
    planned: Sequence[Planned], *, reuse: bool = False, say: Callable[[str], None] = print, quiet_cells: bool = False
) -> list[Outcome]:
    """Execute planned notebooks. One that fails stops those that need it, not the others."""
    outcomes: list[Outcome] = []
    bad: set[str] = set()
    for number, one in enumerate(planned, start=1):
        name, values = one.notebook.name, one.values
        blocked = sorted(bad & set(one.notebook.needs))
        if blocked:
            bad.add(name)
            outcomes.append(Outcome(name, "not run", message=f"needs {', '.join(blocked)}"))
            say(f"{name}: not run, because it needs {', '.join(blocked)}")
            continue
        old = _reusable(one) if reuse else None
        if old is not None:
            outcomes.append(Outcome(name, "reused", old))
            say(f"{name}: reused, its code, inputs and parameters are unchanged: {shown(old)}")
            continue
        told = f"profile {values['profile']}, dataset {values['dataset']}, seed {values['seed']}"
        say(f"{name} ({number} of {len(planned)}): {told}")
        outcome = execute(one, quiet=quiet_cells)
        outcomes.append(outcome)
        say(_told(outcome, one))
        if outcome.status == "interrupted":
            break
        if outcome.status == "failed":
            bad.add(name)
    return outcomes


def execute(one: Planned, *, quiet: bool = False) -> Outcome:
    """Run one notebook through papermill into a new run folder, and complete its record."""
    import jupytext
    import papermill
    from papermill.exceptions import PapermillExecutionError

    name, values = one.notebook.name, one.values
    folder = record.new_folder(one.notebook, values)
    nb = jupytext.read(one.notebook.path)
    nb.metadata = type(nb.metadata)({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    parameters = {key: value for key, value in one.given.items() if value is not None and key != "out"}
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it calls `steps: int | None` unknown; we have checked
    logging.getLogger("asyncio").addFilter(_not_a_dead_kernel)
    progress = CellProgress(nb.cells, quiet=quiet)
    begun, status, message = time.monotonic(), "complete", ""
    try:
        with surroundings(folder, one.given_to_all), sockets() as place:
            papermill.execute_notebook(
                nb,
                re.sub("([{}])", r"\1\1", str(folder / f"{name}.ipynb")),  # papermill fills in what stands in braces
                parameters,
                engine_name=_engine(folder / "kernel.log", place),
                kernel_name=KERNELSPEC["name"],
                progress_bar=False,
                cells_seen=progress,
            )
        if manifest.read_json(folder / "manifest.json").get("status") != "complete":
            status, message = "failed", "the notebook ended without run.done()"
    except PapermillExecutionError as error:
        status, message = "failed", f"{error.ename}: {error.evalue}"
    except KeyboardInterrupt:
        status = "interrupted"
    except Exception as error:  # a kernel that died, a full disk: the record must say so
        status, message = "failed", f"{type(error).__name__}: {error}"
    finally:
        progress.close()
    seconds = time.monotonic() - begun
    _complete_record(folder, one, status, seconds, message)
    return Outcome(name, {"complete": "ok"}.get(status, status), folder, seconds, message)


def _not_a_dead_kernel(said: logging.LogRecord) -> bool:
    """False for the task that still waits for a kernel which an interrupt has ended: asyncio prints its traceback."""
    from nbclient.exceptions import DeadKernelError

    return not (said.exc_info and isinstance(said.exc_info[1], DeadKernelError))


def shown(path: Path) -> str:
    """A path as one types it: relative to the working folder when it lies inside."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _refuse_names_of_others(names: Iterable[str], declared: Collection[str], notebooks: list[stages.Notebook]) -> None:
    """Raise InputError for a name that only a notebook declares which these need: it has to be named as well."""
    here = " or ".join(n.name for n in notebooks)
    for name in (name for name in names if name not in declared):
        for other in _needed(notebooks):
            if name in other.parameters:
                words = " ".join(sorted({n.name[:2] for n in (other, *notebooks)}))
                msg = f"{here} does not declare {name}, but {other.name} does, which is needed: run it too, "
                raise InputError(msg + f"`stpath run {words} -p {name}=...`")


def _needed(notebooks: Sequence[stages.Notebook]) -> list[stages.Notebook]:
    """The notebooks that some need, and those that these need, by name."""
    found: dict[str, stages.Notebook] = {}
    names = [name for notebook in notebooks for name in notebook.needs]
    while names:
        notebook = stages.find_notebook(names.pop())
        if notebook.name not in found:
            found[notebook.name] = notebook
            names += notebook.needs
    return [found[name] for name in sorted(found)]


def _given(notebook: stages.Notebook, texts: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that reach one notebook, typed, data_dir made absolute."""
    known = notebook.parameters
    given = {k: checked(v, known[k], where=notebook.name) for k, v in values.items() if k in known}
    given |= {k: parsed(text, known[k], where=notebook.name) for k, text in texts.items() if k in known}
    if given.get("data_dir"):
        given["data_dir"] = str(stages.absolute(given["data_dir"]))
    notebook.resolve(given)
    return given


def _reusable(one: Planned) -> Path | None:
    """The run folder of a complete, unchanged stage, marked as used now; None when there is none."""
    marker = stages.read_marker(one.stage)
    if marker is None or not marker["exact"]:
        return None
    folder = stages.runs_folder(one.values["out"]) / marker["run"]
    content = manifest.read_json(folder / "manifest.json")
    if content.get("status") != "complete":
        return None
    manifest.write_json(folder / "manifest.json", content | {"used": record.now()})
    latest.merge(folder.parent)
    return folder


def _complete_record(folder: Path, one: Planned, status: str, seconds: float, message: str) -> None:
    """What only the runner knows: how it ended, and the wall time with the kernel's start."""
    content = manifest.read_json(folder / "manifest.json")
    content.setdefault("id", folder.name)
    content.setdefault("notebook", one.notebook.name)
    content |= {"status": status, "seconds": round(seconds - content.get("seconds_in_needed", 0.0), 1)}
    if message:
        content["error"] = message
    manifest.write_json(folder / "manifest.json", content)
    latest.merge(folder.parent)


def _told(outcome: Outcome, one: Planned) -> str:
    """The lines said when a notebook ended."""
    place = shown(outcome.folder) if outcome.folder else ""
    lines = [f"{outcome.name}: {outcome.status} after {outcome.seconds:.0f} s, {place}"]
    if outcome.status == "ok" and outcome.folder:
        key = manifest.read_json(outcome.folder / "manifest.json")["stage"]
        stage = stages.stage_folder(one.notebook, key)
        lines += [f"  checkpoint: {shown(path)}" for path in sorted(stage.glob("*.safetensors"))]
    if outcome.message:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", outcome.message)
        lines += [f"  {plain}", f"  the executed copy: {place}/{outcome.name}.ipynb"]
    return "\n".join(lines)


def _engine(log: Path, place: str) -> str:
    """Register papermill's own engine with our kernel and our progress, and return its name.

    log : where the kernel process itself complains; what cells print is in the executed copy. place : of
    `kernel.sockets`
    """
    import zmq
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.localinterfaces import localhost
    from jupyter_client.manager import AsyncKernelManager
    from papermill.engines import NBClientEngine, papermill_engines
    from traitlets import default

    class ThisPython(AsyncKernelManager):
        """A kernel of the running interpreter, whatever kernels are registered; its sockets are encrypted."""

        @default("transport")
        def _files_or_ports(self) -> str:
            return "ipc" if place else "tcp"

        @default("ip")
        def _where(self) -> str:
            return place or localhost()

        @default("transport_encryption")
        def _encrypt(self) -> str:
            return "auto" if zmq.has("curve") else "disabled"

        async def _async_launch_kernel(self, kernel_cmd: list[str], **more: Any) -> None:
            with log.open("ab") as handle:
                await super()._async_launch_kernel(kernel_cmd, stdout=handle, stderr=handle, **more)

        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            encryption = {"supported_encryption": ["curve"]}
            return KernelSpec(argv=argv, language="python", display_name="stpath", metadata=encryption)

    class StpathEngine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(
            cls, nb_man: Any, kernel_name: str, *, cells_seen: CellProgress, **rest: Any
        ) -> None:
            start, complete = nb_man.cell_start, nb_man.cell_complete

            def seen_start(cell: Any, cell_index: int | None = None, **more: Any) -> None:
                cells_seen.start(cell)
                start(cell, cell_index=cell_index, **more)

            def seen_complete(cell: Any, cell_index: int | None = None, **more: Any) -> None:
                complete(cell, cell_index=cell_index, **more)
                cells_seen.end(cell)

            nb_man.cell_start, nb_man.cell_complete = seen_start, seen_complete
            super().execute_managed_notebook(nb_man, kernel_name, kernel_manager_class=ThisPython, **rest)

    papermill_engines.register("stpath", StpathEngine)
    return "stpath"
