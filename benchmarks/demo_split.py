"""`make demo-split`: the demo as a user runs it, its wall time split by step into start-up, imports and work, and its peak memory.

Start-up is all of a process that is neither import nor work: Python's own start, kfp's executor, the end. Memory is that of the whole
process tree: resident pages, shared ones counted once a process (RSS, looked at four times a second) and once in all (PSS, every fourth
second: the kernel walks all pages for it and holds the process up meanwhile).
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distillery.runtime import resolve_runtime
from measure import document, write

DEMO = "distillery_kfp.pipelines.demo.run"
PROBE = Path(__file__).parent / "probe"
GIB = 2**30
LOOK_SECONDS, LOOKS_A_COUNT = 0.25, 16
MEMORY_BAR_GIB, MINUTES_BAR = 3.0, 5.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Memory(threading.Thread):
    """Watches a process tree.

    Attributes:
        root: pid at its top.
        rss: highest sum of resident bytes.
        pss: highest sum with shared pages counted once.
        by_process: pid -> its own highest resident bytes.
    """

    root: int
    rss: int = 0
    pss: int = 0
    by_process: dict[int, int] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Look until told that it is over."""
        looks = 0
        while not self.over.wait(LOOK_SECONDS):
            tree = descendants(self.root)
            resident = {pid: resident_bytes(pid) for pid in tree}
            for pid, size in resident.items():
                self.by_process[pid] = max(size, self.by_process.get(pid, 0))
            self.rss = max(self.rss, sum(resident.values()))
            if looks % LOOKS_A_COUNT == 0:
                self.pss = max(self.pss, sum(map(proportional_bytes, tree)))
            looks += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a demo and print its split; the demo's exit code, or 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(".bench/demo.json"), help="the JSON to write")
    parser.add_argument("--module", default=DEMO, help="what to run instead of the demo")
    given = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        seen, memory, seconds, code = watch(given.module, Path(folder) / "probe.jsonl")
    rows = split(seen, memory, seconds)
    peak = {"rss_gib": round(memory.rss / GIB, 2), "pss_gib": round(memory.pss / GIB, 2)}
    show(rows, seconds, peak)
    write(given.out, document("demo", resolve_runtime("cpu"), {"seconds": round(seconds, 1), "peak": peak, "rows": rows, "n": 1}))
    print(f"written: {given.out}")
    return code or int(seconds > MINUTES_BAR * 60 or peak["rss_gib"] > MEMORY_BAR_GIB)


def watch(module: str, target: Path) -> tuple[list[dict[str, Any]], Memory, float, int]:
    """Run a module with the probe in every process.

    Returns:
        What each process told, in the order in which they began; the memory; wall seconds; the exit code.
    """
    path = os.pathsep.join(filter(None, [str(PROBE), os.environ.get("PYTHONPATH", "")]))
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", module], env={**os.environ, "PYTHONPATH": path, "DISTILLERY_PROBE": str(target)})
    memory = Memory(process.pid)
    memory.start()
    code = process.wait()
    seconds = time.monotonic() - began
    memory.over.set()
    memory.join()
    seen = [json.loads(line) for line in target.read_text().splitlines()] if target.is_file() else []
    return sorted(seen, key=lambda told: told["created"]), memory, seconds, code


def split(seen: Sequence[dict[str, Any]], memory: Memory, seconds: float) -> list[dict[str, Any]]:
    """A row for each step, one for each run's pipeline runner without its steps, and one for the demo itself without its runs."""
    rows: list[dict[str, Any]] = []
    steps = [told for told in seen if told["step"]]
    runners = [told for told in seen if told["module"].endswith("runner.child")]
    for number, runner in enumerate(runners, start=1):
        inside = [told for told in steps if runner["created"] <= told["created"] <= runner["ended"]]
        rows.append(_row(f"run {number}: runner", runner, memory, [runner], inside))
        rows += [_row(f"run {number}: {told['step']}", told, memory, [told], []) for told in inside]
    own = [told for told in seen if told["pid"] == memory.root]
    for told in own:
        rows.append(_row("demo: teacher, noise, table", {**told, "ended": told["created"] + seconds}, memory, own, runners))
    return rows


def _row(
    name: str, told: dict[str, Any], memory: Memory, processes: Sequence[dict[str, Any]], inside: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A process's seconds without those of the processes inside it; a process that is no step works while it neither starts nor imports."""
    total = told["ended"] - told["created"] - sum(other["ended"] - other["created"] for other in inside)
    start = told["began"] - told["created"]
    work = told["work"] if told["step"] else total - start - told["imports"]
    parts = {"start_up": total - told["imports"] - work, "imports": told["imports"], "work": work, "total": total}
    peak = max(memory.by_process.get(process["pid"], 0) for process in processes)
    return {"name": name, **{part: round(value, 2) for part, value in parts.items()}, "rss_gib": round(peak / GIB, 2)}


def show(rows: Sequence[dict[str, Any]], seconds: float, peak: dict[str, float]) -> None:
    """The rows as a table, the whole below it."""
    names = ("start_up", "imports", "work", "total")
    print(f"{'':<32}{'start-up':>10}{'imports':>10}{'work':>10}{'total s':>10}{'RSS GiB':>10}")
    for row in rows:
        print(f"{row['name']:<32}" + "".join(f"{row[part]:>10.1f}" for part in names) + f"{row['rss_gib']:>10.2f}")
    sums = [sum(row[part] for row in rows) for part in names]
    print(f"{'all':<32}" + "".join(f"{value:>10.1f}" for value in sums))
    print(f"{seconds:.0f} s in all; peak memory of the process tree {peak['rss_gib']:.2f} GiB (shared once: {peak['pss_gib']:.2f} GiB)")


def descendants(root: int) -> list[int]:
    """A process and everything below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def resident_bytes(pid: int) -> int:
    """Of one process; 0 where it has ended."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def proportional_bytes(pid: int) -> int:
    """Of one process, each shared page divided by those that share it; 0 where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    sys.exit(main())
