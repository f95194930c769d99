"""A pipeline's steps called one after another in this process, without Kubeflow: for benchmarks, tests and debuggers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from distillery.environment import environment
from distillery.recipes.loader import is_own_file, load_recipe
from distillery.step_table import LAST, PIPELINES, STEPS
from distillery.steps import plan


@dataclass
class DirectRun:
    """One run of a recipe.

    Attributes:
        recipe: a preset's name, or a path to a YAML file.
        teacher: folder of the teacher's bundle, or its URI.
        folder: everything is written below it.
        data: labelled images, read by the last step only; "" for none.
        seed: of every random stream.
        overrides: dotted keys of the recipe and their values.
        store: where results and checkpoints go; "" for a folder below `folder`.
        sections: what the plan handed to each step, once it ran.
        metrics: what each step returned.
        seconds: what each step took.
    """

    recipe: str
    teacher: Path | str
    folder: Path
    data: str = ""
    seed: int = 0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    store: str = ""
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def statistics(self) -> Path:
        """The teacher's moments."""
        return self.folder / "statistics.safetensors"

    @property
    def synthesizer(self) -> Path:
        """Folder of the trained synthesizer."""
        return self.folder / "synthesizer"

    @property
    def set(self) -> Path:
        """Folder of the reference to the synthetic set."""
        return self.folder / "set"

    @property
    def student(self) -> Path:
        """Folder of the student's bundle, as it was after the last epoch."""
        return self.folder / "student"

    @property
    def report(self) -> Path:
        """The evaluation's report."""
        return self.folder / "report.json"

    @property
    def page(self) -> Path:
        """The report as a page."""
        return self.folder / "report.html"

    def execute(self) -> "DirectRun":
        """Run every step but the registration.

        Raises:
            DistilleryError: what a step could not do.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        store = self.store or str(self.folder / "store")
        with environment({"DISTILLERY_STORE": store, "DISTILLERY_FOLDER_STORE": "1", "DISTILLERY_WORKDIR": str(self.folder / "work")}):
            pipeline = PIPELINES[self._plan()]
            for step in pipeline.steps[1:]:
                if step != LAST:
                    self._step(step, pipeline.artifacts)
        return self

    def _plan(self) -> str:
        pipeline = load_recipe(self.recipe, self.overrides).pipeline
        source = "run_recipe_uri" if is_own_file(self.recipe) else "run_recipe"
        chosen = {source: self.recipe, "run_seed": self.seed, "run_overrides": dict(self.overrides)}
        self.sections = plan.run(pipeline, {**chosen, "teacher_uri": str(self.teacher), "eval_data_uri": self.data})

        return pipeline

    def _step(self, step: str, artifacts: Sequence[str]) -> None:
        row, began = STEPS[step], time.monotonic()
        places = {name: getattr(self, name) for name in (*row.reads, *row.writes) if name in artifacts}
        given = {"teacher_uri": str(self.teacher), "eval_data_uri": self.data}
        self.metrics[row.section] = run_step(step, self.sections[row.section], places, given)
        self.seconds[row.section] = time.monotonic() - began


def run_step(step: str, section: Mapping[str, Any], places: Mapping[str, Path], given: Mapping[str, str]) -> dict[str, Any]:
    """Run a step by its row in the table.

    Args:
        step: its name.
        section: of the plan.
        places: where each artifact lies that it reads, and where each is to lie that it writes; what may be left out is left out.
        given: what pipelines know beside artifacts, such as the teacher's address; a step takes what it has an input for.

    Returns:
        What the step returns.
    """
    row, module = STEPS[step], import_module(f"distillery.steps.{step}")
    known = {part.name for part in fields(module.Inputs)}
    settings = {name: value for name, value in given.items() if name in known}
    read, written = ({name: places[name] for name in names if name in places} for names in (row.reads, row.writes))
    result: dict[str, Any] = module.run(section, module.Inputs(**read, **settings), module.Outputs(**written))
    return result
