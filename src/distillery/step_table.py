"""The steps of the pipelines, one row each, and the pipelines that are made of them: plain data, low in the house, for every room to read.

What depends on a step's name stands here and nowhere else. What a step does stands in its module, `distillery.steps.<name>`, whose
`Inputs` and `Outputs` have the row's artifacts as fields; a component of the same name hands it to a cluster.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NewType

from distillery.errors import ConfigError

StatisticsFile = NewType("StatisticsFile", Path)
"""The teacher's moments, as a method reads them."""
ClassStatisticsFile = NewType("ClassStatisticsFile", Path)
"""The teacher's moments of each class, measured on images: what a run of such statistics is for."""
SynthesizerFolder = NewType("SynthesizerFolder", Path)
"""A synthesizer's bundle."""
SetFolder = NewType("SetFolder", Path)
"""The reference to what a student is trained on: a synthetic set, which itself lies in the store, or real images where they are."""
StudentFolder = NewType("StudentFolder", Path)
"""A student's bundle."""
ReportFile = NewType("ReportFile", Path)
"""What an evaluation measured, as JSON."""
PageFile = NewType("PageFile", Path)
"""The same and the run around it, to look at."""
RegistrationFile = NewType("RegistrationFile", Path)
"""What the model registry answered, as JSON."""

Artifact = Literal["statistics", "class_statistics", "synthesizer", "set", "student", "report", "page", "registration"]


@dataclass(frozen=True)
class Step:
    """One row.

    Attributes:
        name: of its module in `steps`, of its component and of that one's folder.
        stage: the folder of `components` that its component lies in.
        title: what it does, as it is told while it does it.
        section: the part of a plan that it is given; "" for the plan itself.
        sections: the part that holds a section for each of its tasks, where a pipeline fans it out; "" for a step that is never.
        reads: artifacts of the steps before it that a pipeline may hand it.
        gathers: of what it reads, what comes from every task of a step that is fanned out; its input is called so with an s.
        writes: artifacts that it leaves.
        ends: what a run was for is there once it has ended: it notes in the run's record where everything lies.
        keeps: its outputs are kept under its key and taken again where equal work is asked for; else it looks at the world, or changes it.
        accelerated: it works on an accelerator where the cluster has one for it.
        heading: over what the page of a run shows of it; "" where that shows nothing.
        unit: what its history counts: a round of a synthesizer, or an epoch of a student.
    """

    name: str
    stage: str
    title: str
    section: str = ""
    sections: str = ""
    reads: tuple[Artifact, ...] = ()
    gathers: tuple[Artifact, ...] = ()
    writes: tuple[Artifact, ...] = ()
    ends: bool = False
    keeps: bool = False
    accelerated: bool = False
    heading: str = ""
    unit: Literal["round", "epoch"] = "round"

    @property
    def opens_its_set(self) -> bool:
        """Whether the set that it hands on was there before the run, and lies where the run was told, not under the step's own key."""
        return self.writes == ("set",) and not self.reads

    @property
    def grows_its_set(self) -> bool:
        """Whether the student that it trains sees a set that it makes meanwhile."""
        return {"set", "student"} <= set(self.writes)

    def planned(self, plan: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
        """Its section of a plan, or, where it is fanned out, that of each of its tasks; none where the plan is not for it."""
        if self.section in plan:
            return (plan[self.section],)
        return tuple(plan.get(self.sections, ()))


STEPS: dict[str, Step] = {
    row.name: row
    for row in (
        Step("plan", "ops", "plan the run"),
        Step(
            "extract_statistics",
            "teacher",
            "read the teacher's statistics",
            section="statistics",
            writes=("statistics",),
            keeps=True,
        ),
        Step(
            "train_generator",
            "generator",
            "train the generator",
            section="generator",
            sections="shards",
            reads=("statistics",),
            writes=("synthesizer",),
            keeps=True,
            accelerated=True,
            heading="Training the generator",
        ),
        Step(
            "materialize",
            "synthesis",
            "draw the synthetic set",
            section="materialize",
            reads=("statistics", "synthesizer"),
            gathers=("synthesizer",),
            writes=("set",),
            keeps=True,
            accelerated=True,
            heading="Drawing the synthetic set",
        ),
        Step("open_set", "synthesis", "open the images that are there", section="source", writes=("set",), keeps=True),
        Step(
            "extract_class_statistics",
            "teacher",
            "measure the statistics of each class",
            section="class_statistics",
            reads=("set",),
            writes=("class_statistics",),
            ends=True,
            keeps=True,
            accelerated=True,
        ),
        Step(
            "train_student",
            "student",
            "train the student",
            section="student",
            reads=("set",),
            writes=("student",),
            keeps=True,
            accelerated=True,
            heading="Training the student",
            unit="epoch",
        ),
        Step(
            "distill_online",
            "student",
            "distil: generator against student",
            section="distill",
            reads=("statistics",),
            writes=("synthesizer", "set", "student"),
            keeps=True,
            accelerated=True,
            heading="Generator against student",
        ),
        Step(
            "evaluate",
            "evaluation",
            "evaluate the student",
            section="evaluation",
            reads=("student", "set"),
            writes=("report", "page"),
            accelerated=True,
        ),
        Step(
            "register",
            "ops",
            "register the student",
            section="registration",
            reads=("student", "report"),
            writes=("registration",),
            ends=True,
        ),
    )
}
"""The steps by name, in the order of a run."""
LAST = "register"
"""The step that ends a run of a student."""


@dataclass(frozen=True)
class Pipeline:
    """One row: what it runs, and the steps that it is made of.

    Attributes:
        name: of its module in `pipelines`.
        steps: names of its steps, in the order of a run.
        kind: of the recipes that it runs.
        coupling: of the methods that it runs; "" where its recipes name none.
        targets: what these methods may optimise.
        fanned: steps that it runs as several tasks side by side, each with a share of more than one generator; else it trains exactly
            one, or none.
        parallel: tasks of such a step that a cluster runs at a time; this machine, whose cores and memory they would share, runs one.
        recipe: the preset that its run form opens with; "" where no preset asks for this pipeline yet, and then nobody is offered it.
    """

    name: str
    steps: tuple[str, ...]
    kind: str = "distillation"
    coupling: Literal["", "offline", "online"] = ""
    targets: tuple[Literal["generator", "images"], ...] = ()
    fanned: tuple[str, ...] = ()
    parallel: int = 0
    recipe: str = ""

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the sections that its plan hands out."""
        rows = {step: STEPS[step] for step in self.steps if STEPS[step].section}
        return tuple(row.sections if step in self.fanned else row.section for step, row in rows.items())

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """What its steps write; a step of it reads nothing else."""
        return tuple(artifact for step in self.steps for artifact in STEPS[step].writes)


DEFAULT_KIND = "distillation"
"""The kind of a recipe that names none."""
STATISTICS_KIND = "statistics"
"""The kind of recipes that measure the teacher's statistics of each class, and train nobody."""
_SCORED = ("evaluate", LAST)
PIPELINES: dict[str, Pipeline] = {
    row.name: row
    for row in (
        Pipeline(
            "generative_distillation",
            ("plan", "extract_statistics", "train_generator", "materialize", "train_student", *_SCORED),
            coupling="offline",
            targets=("generator",),
            recipe="ls_gdfd/digits",
        ),
        Pipeline(
            "ensemble_distillation",
            ("plan", "extract_statistics", "train_generator", "materialize", "train_student", *_SCORED),
            coupling="offline",
            targets=("generator",),
            fanned=("train_generator",),
            parallel=8,
            recipe="ls_gdfd/digits-ensemble",
        ),
        Pipeline(
            "inversion_distillation",
            ("plan", "extract_statistics", "materialize", "train_student", *_SCORED),
            coupling="offline",
            targets=("images",),
            recipe="deep_inversion/digits",
        ),
        Pipeline(
            "online_distillation",
            ("plan", "extract_statistics", "distill_online", *_SCORED),
            coupling="online",
            targets=("generator", "images"),
            recipe="fast_dfkd/digits",
        ),
        Pipeline("student_distillation", ("plan", "open_set", "train_student", *_SCORED), kind="student", recipe="students/digits-kd"),
        Pipeline(
            "class_statistics",
            ("plan", "extract_statistics", "materialize", "extract_class_statistics"),
            kind=STATISTICS_KIND,
            coupling="offline",
            targets=("images",),
            recipe="statistics/digits",
        ),
        Pipeline("image_statistics", ("plan", "open_set", "extract_class_statistics"), kind=STATISTICS_KIND, recipe="statistics/images"),
    )
}
"""The pipelines by name."""


def find_pipeline(kind: str = DEFAULT_KIND, coupling: str = "", target: str = "", generators: int = 1) -> str:
    """The pipeline that runs a recipe.

    Args:
        kind: of the recipe.
        coupling: of its method; "" where it has none.
        target: what its method optimises; "" likewise.
        generators: how many of them are trained; of a method that inverts, 1.

    Raises:
        ConfigError: no such kind, or no pipeline for it.
    """
    check_kind(kind)
    rows = [row for row in PIPELINES.values() if row.kind == kind]
    for row in rows:
        if row.coupling == coupling and target in (row.targets or ("",)) and bool(row.fanned) == (generators > 1):
            return row.name
    several = "one generator" if generators == 1 else f"{generators} generators"
    asked = f"an {coupling} method that optimises {'images' if target == 'images' else several}" if coupling else "it"
    raise ConfigError(
        f"No pipeline runs {asked}: {kind} has {', '.join(row.name for row in rows)}; choose another method, or one generator."
    )


def check_kind(kind: str) -> None:
    """Refuse a kind of recipe that no pipeline is for.

    Raises:
        ConfigError: names those that there are, and the nearest one.
    """
    known = sorted({row.kind for row in PIPELINES.values()})
    if kind not in known:
        from distillery.config import nearest  # here, because listings that need the table only would wait for pydantic

        raise ConfigError(f"There is no kind of recipe {kind!r}; known: {', '.join(known)}{nearest(kind, known) or '.'}")


def makers_of(artifact: Artifact) -> tuple[str, ...]:
    """Names of the steps that make an artifact; who opens a set that was there before makes none."""
    return tuple(name for name, row in STEPS.items() if artifact in row.writes and not row.opens_its_set)


def keepers() -> tuple[str, ...]:
    """Names of the steps that keep their outputs."""
    return tuple(name for name, row in STEPS.items() if row.keeps)
