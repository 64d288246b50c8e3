"""stpath_core: the library behind the stpath tutorials.

Rooms are imported when they are first used (`stpath_core.metrics.pq`), so that `import stpath_core` stays light.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    if name in __dir__():
        return importlib.import_module(f"{__name__}.{name}")
    msg = f"module {__name__!r} has no attribute {name!r}; its rooms are {', '.join(__dir__())}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(room.name for room in pkgutil.iter_modules(__path__) if not room.name.startswith("_"))
