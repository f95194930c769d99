"""The steps of the pipelines, one row each, and the pipelines that are made of them: plain data, low in the house, for every room to read.

What depends on a step's name stands here and nowhere else. What a step does stands in its module, `distillery.steps.<name>`, whose
`Inputs` and `Outputs` have the row's artifacts as fields; a component of the same name hands it to a cluster.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NewType

StatisticsFile = NewType("StatisticsFile", Path)
"""The teacher's moments."""
SynthesizerFolder = NewType("SynthesizerFolder", Path)
"""A synthesizer's bundle."""
SetFolder = NewType("SetFolder", Path)
"""The reference to a synthetic set, which itself lies in the store."""
StudentFolder = NewType("StudentFolder", Path)
"""A student's bundle."""
ReportFile = NewType("ReportFile", Path)
"""What an evaluation measured, as JSON."""
PageFile = NewType("PageFile", Path)
"""The same and the run around it, to look at."""
RegistrationFile = NewType("RegistrationFile", Path)
"""What the model registry answered, as JSON."""

Artifact = Literal["statistics", "synthesizer", "set", "student", "report", "page", "registration"]


@dataclass(frozen=True)
class Step:
    """One row.

    Attributes:
        name: of its module in `steps`, of its component and of that one's folder.
        stage: the folder of `components` that its component lies in.
        title: what it does, as it is told while it does it.
        section: the part of a plan that it is given; "" for the plan itself.
        reads: artifacts of the steps before it that a pipeline may hand it.
        writes: artifacts that it leaves.
        keeps: its outputs are kept under its key and taken again where equal work is asked for; else it looks at the world, or changes it.
        accelerated: it works on an accelerator where the cluster has one for it.
        heading: over what the page of a run shows of it; "" where that shows nothing.
        unit: what its history counts: a round of a synthesizer, or an epoch of a student.
    """

    name: str
    stage: str
    title: str
    section: str = ""
    reads: tuple[Artifact, ...] = ()
    writes: tuple[Artifact, ...] = ()
    keeps: bool = False
    accelerated: bool = False
    heading: str = ""
    unit: Literal["round", "epoch"] = "round"

    @property
    def grows_its_set(self) -> bool:
        """Whether the student that it trains sees a set that it makes meanwhile."""
        return {"set", "student"} <= set(self.writes)


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
            writes=("set",),
            keeps=True,
            accelerated=True,
            heading="Drawing the synthetic set",
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
        ),
    )
}
"""The steps by name, in the order of a run."""
LAST = "register"
"""The step whose record tells that a run ended, where no runner writes that into the store."""

PIPELINES: dict[str, tuple[str, ...]] = {
    "generative_distillation": ("plan", "extract_statistics", "train_generator", "materialize", "train_student", "evaluate", "register"),
    "online_distillation": ("plan", "extract_statistics", "distill_online", "evaluate", "register"),
}
"""Names of the steps of each pipeline, in the order of a run."""


def makers_of(artifact: Artifact) -> tuple[str, ...]:
    """Names of the steps that write an artifact."""
    return tuple(name for name, row in STEPS.items() if artifact in row.writes)


def keepers() -> dict[str, str]:
    """Of each step that keeps its outputs, the name of its section in a plan."""
    return {name: row.section for name, row in STEPS.items() if row.keeps}
