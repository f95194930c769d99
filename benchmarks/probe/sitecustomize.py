"""Loaded by every Python process below `demo_split.py`: notes when it began, how long it imported, and how long its step worked.

A line of JSON a process goes to the file that DISTILLERY_PROBE names.
"""

from __future__ import annotations

import atexit
import builtins
import functools
import json
import os
import sys
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:  # every process below pays for what is imported here
    from types import ModuleType
    from typing import Any

TARGET = os.environ.get("DISTILLERY_PROBE", "")
STEPS = "distillery.steps."


class Probe:
    """Two clocks of one process: imports, and the outermost `run` of a step, without the imports inside it."""

    def __init__(self) -> None:
        """Begin as Python itself has begun."""
        self._import = builtins.__import__
        self._wrapped: set[str] = set()
        self.begin()

    def begin(self) -> None:
        """Set the clocks to nothing: what a forked process did before it was forked is another's."""
        self.began, self.imports, self.work, self.step = time.time(), 0.0, 0.0, ""
        self._importing = 0

    def install(self) -> None:
        """Watch imports from now on, and say what was seen when the process ends."""
        builtins.__import__ = self.watch
        os.register_at_fork(after_in_child=self.begin)
        atexit.register(self.tell)

    def watch(self, name: str, *arguments: Any, **options: Any) -> ModuleType:
        """An import statement; only the outermost is timed."""
        self._importing += 1
        began = time.perf_counter()
        try:
            module = self._import(name, *arguments, **options)
        finally:
            self._importing -= 1
            if not self._importing:
                self.imports += time.perf_counter() - began
        if name.startswith(STEPS):
            self.wrap(sys.modules[name])
        return module

    def wrap(self, module: Any) -> None:
        """Time a step's `run`."""
        run = getattr(module, "run", None)
        if not hasattr(module, "STEP") or run is None or module.__name__ in self._wrapped:
            return

        @functools.wraps(run)
        def timed(*arguments: Any, **options: Any) -> Any:
            if self.step:
                return run(*arguments, **options)
            self.step = module.STEP
            began, imported = time.perf_counter(), self.imports
            try:
                return run(*arguments, **options)
            finally:
                self.work += time.perf_counter() - began - (self.imports - imported)

        self._wrapped.add(module.__name__)
        module.run = timed

    def tell(self) -> None:
        """Append what was seen."""
        seen = {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "module": sys.orig_argv[2] if "-m" in sys.orig_argv[1:2] else "",
            "step": self.step,
            "created": created(),
            "began": self.began,
            "ended": time.time(),
            "imports": self.imports,
            "work": self.work,
        }
        with Path(TARGET).open("a") as file:
            file.write(json.dumps(seen) + "\n")


def created() -> float:
    """When the kernel began this process, in seconds since the epoch."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    since_boot = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - since_boot + ticks / os.sysconf("SC_CLK_TCK")


if TARGET:
    Probe().install()
