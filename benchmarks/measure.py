"""What every benchmark writes beside its numbers: hardware, versions, threads, the command; and clocks that wait for the device."""

import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from distillery.provenance import code_version
from distillery.runtime import Runtime, has_native_bfloat16

FORMAT = "distillery-benchmark"
VERSION = 1
_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "kfp", "mlflow")


@dataclass
class Lap:
    """Seconds that a block took; known once it is over."""

    seconds: float = 0.0


@contextmanager
def timed(device: torch.device) -> Iterator[Lap]:
    """Time a block, from all earlier work done to its own work done: the only place where a device is waited for."""
    lap = Lap()
    synchronize(device)
    began = time.perf_counter()
    yield lap
    synchronize(device)
    lap.seconds = time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def hardware(runtime: Runtime) -> dict[str, Any]:
    """The machine, without its name: processor, cores, memory, device, and what the run used of them."""
    device = runtime.device
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "native_bfloat16": has_native_bfloat16(device),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": runtime.threads,
        "precision": runtime.precision,
        "load_average": round(os.getloadavg()[0], 2),
    }


def processor() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Python and the packages that carry the work."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}, "code": code_version()}


def document(kind: str, runtime: Runtime, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark's record.

    Args:
        kind: which benchmark.
        runtime: what it ran on.
        fields: its settings, every raw sample, and the summary.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "measured": datetime.now(UTC).isoformat(timespec="minutes"),
        "command": shlex.join(["python", *(_relative(word) for word in sys.argv)]),
        "hardware": hardware(runtime),
        "versions": versions(),
        **fields,
    }


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".partial")
    fresh.write_text(json.dumps(record, indent=1) + "\n")
    fresh.replace(path)


def rounded(values: Sequence[float], digits: int = 4) -> list[float]:
    """Samples as they are published."""
    return [round(value, digits) for value in values]


def middle(values: Sequence[float]) -> float:
    """The median, as everything here is summed up."""
    return float(median(values))


def _relative(word: str) -> str:
    """A path below this folder as the reader would type it; any other keeps its last part only."""
    if not word.startswith("/"):
        return word
    path = Path(word)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name
