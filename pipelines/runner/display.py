"""What a run looks like: a bar for the step that runs where there is a terminal, one line a finished step either way."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from distillery.step_table import STEPS, Pipeline
from distillery.workbench.warned import read_warnings


class Display:
    """Shows a run.

    Args:
        console: where to.
        pipeline: its row in the table.
        progress: folder of the files that steps write as they go on.
        warnings: folder of the files in which steps leave what they warned of.
    """

    def __init__(self, console: Console, pipeline: Pipeline, progress: Path, warnings: Path) -> None:
        self.console = console
        self.steps, self.fanned = pipeline.steps, pipeline.fanned
        self.progress = progress
        self.warnings = warnings
        self.step = ""
        self._tasks: dict[str, int] = {}
        self._warned: dict[str, list[str]] = {}
        self._since = 0.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("start", total=None, numbers="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Say what the steps warned of, whichever way the run ends; what several said, such as of data that they read, once."""
        self._bar.stop()
        self._keep_warnings()
        told: set[str] = set()
        for step in self.steps:
            for sentence in self._warned.get(step, ()):
                if sentence not in told:
                    told.add(sentence)
                    self.console.print(f"warning  {self._title(step)}: {sentence}", highlight=False, markup=False, soft_wrap=True)

    def started(self, step: str) -> None:
        """A step begins, or one more task of it."""
        self._keep_warnings()
        self._tasks[step] = self._tasks.get(step, 0) + 1
        self.step, self._since = step, time.monotonic()
        self._bar.reset(self._task, description=self._title(step), total=None, numbers="")

    def ended(self, step: str, succeeded: bool) -> None:
        """A step ends; the line stays on the screen."""
        took = duration(time.monotonic() - self._since)
        numbers = _numbers(self._read(step).get("numbers", {})) if succeeded else ""
        self.console.print(f"{self._title(step):<42}{took if succeeded else 'failed':>10}  {numbers}", highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        """Move the bar to where the running step says it is."""
        if not self.console.is_terminal or not self.step:
            return
        state = self._read(self.step)
        if state:
            self._bar.update(
                self._task,
                description=f"{self._title(self.step)}: {state['stage']}",
                completed=state["done"],
                total=state["total"],
                numbers=_numbers(state["numbers"]),
            )

    def _keep_warnings(self) -> None:
        """Take what the step that ran last warned of: where it has several tasks, the next one writes its own in the same place."""
        for step in self.steps:
            known = self._warned.setdefault(step, [])
            known += [sentence for sentence in read_warnings(self.warnings, step) if sentence not in known]

    def _title(self, step: str) -> str:
        place = self.steps.index(step) + 1 if step in self.steps else 0
        shard = f", shard {self._tasks.get(step, 1)}" if step in self.fanned else ""
        return f"{place}/{len(self.steps)} {STEPS[step].title if step in STEPS else step}{shard}"

    def _read(self, step: str) -> dict[str, Any]:
        """What a step says of itself; nothing where its file is not there or no such thing, for it is only looked at."""
        try:
            state: dict[str, Any] = json.loads((self.progress / f"{step}.json").read_bytes())
            numbers = {str(name): float(value) for name, value in state["numbers"].items()}
            return {"stage": str(state["stage"]), "done": float(state["done"]), "total": float(state["total"]), "numbers": numbers}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
            return {}


def duration(seconds: float) -> str:
    """Seconds as a person says them: `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _numbers(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in list(values.items())[:4])
