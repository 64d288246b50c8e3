"""The lock: exact versions of everything that pyproject.toml leads to, and whether an environment follows it.

`python -m stpath_core.lock > requirements.lock` rewrites the lock from the environment that runs it: the packages that
pyproject.toml names with its extras, and what these need in turn, nothing else. There is a second lock, of the lowest
versions that pyproject.toml allows of what it names, and the newest of what these need: with
`python -m stpath_core.lock requirements-minimum.lock > requirements-minimum.lock` it is rewritten from an environment
that was installed from `uv pip compile --resolution lowest-direct --all-extras pyproject.toml`.
"""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LINUX_ONLY = ("nvidia-", "cuda-", "triton")  # torch's CUDA build: wheels exist for Linux on x86-64 alone
MARKER = ' ; platform_system == "Linux" and platform_machine == "x86_64"'
LOCKED, MINIMUM = "requirements.lock", "requirements-minimum.lock"
HEADS = {
    LOCKED: "Exact versions, written by `python -m stpath_core.lock > requirements.lock`. CUDA: Linux on x86-64 only.",
    MINIMUM: "The lowest versions that pyproject.toml allows of what it names: see stpath_core/lock.py.",
}


def wanted(pyproject: Path) -> list[Requirement]:
    """Every requirement of pyproject.toml, those of its extras included."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(t for extra in project["optional-dependencies"].values() for t in extra)]
    return [Requirement(text) for text in texts]


def closure(requirements: Iterable[Requirement]) -> dict[str, str]:
    """Name and installed version of the requirements and of everything that they need here.

    Raises importlib.metadata.PackageNotFoundError when one of them is not installed.
    """
    found: dict[str, str] = {}
    todo = [(requirement, "") for requirement in requirements]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        distribution = importlib.metadata.distribution(name)
        found[name] = distribution.version
        for asked in ("", *requirement.extras):
            if (name, asked) not in seen:
                seen.add((name, asked))
                todo += [(Requirement(text), asked) for text in distribution.requires or ()]
    return found


def read_lock(path: Path) -> dict[str, Requirement]:
    """The lock's lines by package name."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def lock_text(versions: dict[str, str], name: str = LOCKED) -> str:
    """The text of the lock of that name."""
    lines = [f"{name}=={v}{MARKER if name.startswith(LINUX_ONLY) else ''}" for name, v in sorted(versions.items())]
    return "\n".join([f"# {HEADS[name]}", *lines]) + "\n"


def here(path: Path) -> list[str]:
    """The names of the lock's packages that this machine needs."""
    return [name for name, one in read_lock(path).items() if one.marker is None or one.marker.evaluate()]


def differences(path: Path) -> list[str]:
    """One line for each package of the lock that is missing here, or here in another version."""
    lines = []
    for name, requirement in read_lock(path).items():
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{name} is missing; the lock has {requirement.specifier}")
            continue
        if version.partition("+")[0] not in requirement.specifier:
            lines.append(f"{name} is {version}; the lock has {requirement.specifier}")
    return lines


if __name__ == "__main__":
    print(lock_text(closure(wanted(Path(__file__).parents[1] / "pyproject.toml")), *sys.argv[1:2]), end="")
