"""A whole chain, from a registered student back to its teacher, made in this process in seconds, and ways to break it."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distillery.api.running import run_tasks
from distillery.environment import environment
from distillery.methods.catalog import METHODS, Method
from distillery.models.bundle import VerifiedBundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version, sha256_file
from distillery.recipes.loader import is_own_file, load_document, load_recipe, pipeline_of
from distillery.recipes.schema import DistillationRecipe
from distillery.step_table import PIPELINES
from distillery.steps import plan
from distillery.types import Classifier, ImageSpec
from methods import tiny
from needed import form_needed

TWO_GENERATORS = 0.002  # GiB, with the teacher of `make_teacher` and the smallest settings
STAGE = {"epochs": 2, "batch": 8, "objectives": [{"name": "kd"}], "steps_per_epoch": 2}
STUDENT = {"architecture": {"name": "resnet8", "arguments": {"base_width": 8}}, "stages": [STAGE]}


def _overrides(row: Method) -> dict[str, Any]:
    overrides = {"synthesis.config": tiny(row.name)}
    if not row.inverts:
        overrides["synthesis.rounds"] = 2
    if row.coupling == "online":
        return {**overrides, "synthesis.student_steps_per_turn": 2}
    if not row.inverts:
        overrides["set.batch"] = 8
    return {**overrides, "set.size": 24, "set.shard_images": 8, "set.max_oversampling": 2.0}


def _recipes() -> dict[str, dict[str, Any]]:
    """A recipe of every pipeline and of every method: of a generator a class, two of the three in one shard."""
    found = {f"{row.name}/digits": _overrides(row) for row in METHODS.values()}
    found["ls_gdfd/digits-ensemble"] = {**found["ls_gdfd/digits"], "synthesis.shard_memory_gib": TWO_GENERATORS}
    return found


OVERRIDES = _recipes()
SHARED = {"student.architecture": STUDENT["architecture"], "student.stages": STUDENT["stages"], "evaluation.latency": False}
EXPECTS = {"expects.height": 8, "expects.width": 8, "expects.classes": 3, "expects.channels": 1}


def make_teacher(folder: Path, seed: int = 0) -> Path:
    """A teacher that nobody trained: three classes of images of 8 x 8."""
    spec = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
    architecture = Architecture(name="wrn_10_1")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = Classifier(build_network(architecture, spec, 3), spec, ("a", "b", "c"))
    save_classifier(folder, classifier, architecture, Provenance(code_version=code_version()))
    return folder


@dataclass
class Chain:
    """A student and everything behind it.

    Attributes:
        folder: everything local is below it.
        recipe: that made it.
        store: its URI.
        run: the run's id.
        sections: what the plan handed to each step.
        registered: what the register step answered.
        more: overrides besides those of its recipe.
        form: further fields of the run form; steps get those that they have an input for.
    """

    folder: Path
    recipe: str
    store: str
    run: str = "run-1"
    sections: dict[str, Any] = field(default_factory=dict)
    registered: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    form: dict[str, str] = field(default_factory=dict)

    @property
    def teacher(self) -> Path:
        """The teacher's bundle."""
        return self.folder / "teacher"

    @property
    def pipeline(self) -> str:
        """The pipeline that runs the recipe."""
        return pipeline_of(load_document(self.recipe))

    @property
    def student(self) -> Path:
        """The student's bundle, as the step left it."""
        return self.folder / self.run / "student"

    @property
    def key(self) -> str:
        """The student in the store."""
        return f"students/{sha256_file(self.student / 'bundle.json')}"

    def make(self) -> "Chain":
        """Run every step, as a cluster and `distillery run` do; where an MLflow is in the environment it is registered there."""
        if not self.teacher.exists():
            make_teacher(self.teacher)
        out = self.folder / self.run
        trained = SHARED if "student" in load_document(self.recipe) else {}
        overrides = {**OVERRIDES.get(self.recipe, {}), **trained, **EXPECTS, **self.more}
        with self.environment():
            given = {"teacher_uri": str(self.teacher), **self._needed(overrides), **self.form}
            values = {"run_recipe_uri" if is_own_file(self.recipe) else "run_recipe": self.recipe, "run_seed": 0, **given}
            self.sections = sections = plan.run(self.pipeline, {**values, "run_overrides": overrides})
            pipeline = PIPELINES[self.pipeline]
            names = ("statistics", "class_statistics", "synthesizer", "set", "student", "report.json", "report.html", "registration.json")
            places = {"page" if name == "report.html" else name.partition(".")[0]: out / name for name in names}
            places = {name: place for name, place in places.items() if name in pipeline.artifacts}
            for step in pipeline.steps[1:]:
                answers = [answer for _, _, answer in run_tasks(step, sections, places, given)]
            (self.registered,) = answers
        return self

    def _needed(self, overrides: dict[str, Any]) -> dict[str, str]:
        recipe, teacher = load_recipe(self.recipe, overrides), VerifiedBundle(self.teacher)
        if not isinstance(recipe, DistillationRecipe):
            return {}
        return form_needed(recipe.method.required(recipe.settings), teacher.classifier, teacher.sha256, self.folder)

    def environment(self) -> AbstractContextManager[None]:
        """What the steps read."""
        chosen = {"DISTILLERY_STORE": self.store, "DISTILLERY_WORKDIR": str(self.folder / "work"), "KFP_RUN_ID": self.run}
        return environment({**chosen, "DISTILLERY_DEVICE": "cpu"})


def flip(data: bytes) -> bytes:
    """The bytes with the last but one changed: inside the tensors of a safetensors file, inside the last value of a JSON file."""
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


@contextmanager
def changed(path: Path, data: bytes | None) -> Iterator[None]:
    """A file with other content for a while, or without it."""
    before = path.read_bytes()
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """A folder somewhere else for a while."""
    aside = folder.with_name(folder.name + "-away")
    shutil.move(folder, aside)
    try:
        yield
    finally:
        shutil.move(aside, folder)
