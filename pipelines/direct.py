"""A pipeline's steps called one after another in this process, without Kubeflow: for benchmarks, tests and debuggers."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillery.environment import environment
from distillery.recipes.loader import is_own_file, load_recipe
from distillery.steps import distill_online, evaluate, extract_statistics, materialize, plan, train_generator, train_student


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
            self._plan()
            teacher = str(self.teacher)
            self._step("statistics", extract_statistics.run, teacher, self.statistics)
            if "distill" in self.sections:
                self._step("distill", distill_online.run, teacher, self.statistics, self.synthesizer, self.set, self.student)
            else:
                self._step("generator", train_generator.run, teacher, self.statistics, self.synthesizer)
                self._step("materialize", materialize.run, teacher, self.statistics, self.synthesizer, self.set)
                self._step("student", train_student.run, teacher, self.set, self.student)
            self._step("evaluation", evaluate.run, teacher, self.student, self.set, self.data, self.report, self.page)
        return self

    def _plan(self) -> None:
        pipeline = load_recipe(self.recipe, self.overrides).pipeline
        source = "run_recipe_uri" if is_own_file(self.recipe) else "run_recipe"
        chosen = {source: self.recipe, "run_seed": self.seed, "run_overrides": dict(self.overrides)}
        self.sections = plan.run(pipeline, {**chosen, "teacher_uri": str(self.teacher), "eval_data_uri": self.data})

    def _step(self, name: str, run: Callable[..., dict[str, Any]], *arguments: object) -> None:
        began = time.monotonic()
        self.metrics[name] = run(self.sections[name], *arguments)
        self.seconds[name] = time.monotonic() - began
