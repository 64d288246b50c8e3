"""Run `stpath` words in a process that has torch, timm, numpy, h5py, safetensors, scipy, scikit-image, what these
require, and nothing else: a stand-in for a GPU server without the single-cell stack.

python tests/only_these.py WORDS... -- WORDS...      a command after the other
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distribution, packages_distributions

ALLOWED = ("torch", "timm", "numpy", "h5py", "safetensors", "scipy", "scikit-image")


def required(names: tuple[str, ...]) -> set[str]:
    """Those distributions and all that they require, as they are installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub("[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            lines = distribution(name).requires or []
        except Exception:
            continue
        waiting += [re.match(r"[\w.-]+", line)[0] for line in lines if "extra ==" not in line]
    return found


class Only:
    """A finder that does not see what is not allowed."""

    def __init__(self, finder, hidden):
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):  # such as find_distributions, for the versions of what is there
        return getattr(self.finder, name)


if __name__ == "__main__":
    keep = required(ALLOWED) | {"stpath"}
    here = packages_distributions()
    hidden = {top for top, of in here.items() if not {re.sub("[-_.]+", "-", d).lower() for d in of} & keep}
    hidden -= {"stpath_core"}
    assert {"pandas", "anndata", "scanpy", "sklearn", "threadpoolctl", "papermill"} <= hidden
    sys.meta_path[:] = [Only(finder, hidden) for finder in sys.meta_path]
    from stpath_core import cli

    for words in " ".join(sys.argv[1:]).split(" -- "):
        assert cli.main(words.split()) == cli.OK, words
    assert not {name.partition(".")[0] for name in sys.modules} & hidden
