"""Everything that a page shows, as plain values: collected once, so that drawing needs no store and no model."""

from typing import Any

from pydantic import Field

from distillery.config import Config
from distillery.evaluation.health import HealthReport
from distillery.evaluation.report import EvaluationReport
from distillery.host import PLACES
from distillery.reporting.command import as_typed, run_again
from distillery.reporting.pictures import ClassPicture
from distillery.reporting.real_images import RealImages
from distillery.tracking.history import History


class RunRecord(Config):
    """What `runs/<id>/run.json` says of the run; all empty where a step was run by itself.

    Attributes:
        id: of the run.
        pipeline: that ran.
        planned: when, in ISO 8601.
        parameters: of the run form.
        recipe: the resolved recipe.
        sections: what each step was given, by section; of an ensemble's shards a list.
        image: the container image.
        environment: what a runner on a machine was started with; empty on a cluster.
    """

    id: str = ""
    pipeline: str = ""
    planned: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    sections: dict[str, dict[str, Any] | list[dict[str, Any]]] = Field(default_factory=dict)
    image: str = ""
    environment: dict[str, Any] = Field(default_factory=dict)


class SetFacts(Config):
    """The synthetic set in numbers.

    Attributes:
        images: to train on.
        holdout: withheld.
        counts: training images by the teacher's first choice, one number a class.
        asked: training images that were asked for as some class.
        agreed: those of them that the teacher sees as that class.
        shortfall: images that the quotas wanted and did not get.
    """

    images: int = 0
    holdout: int = 0
    counts: tuple[int, ...] = ()
    asked: int = 0
    agreed: int = 0
    shortfall: int = 0


class ClassStatistics(Config):
    """Moments of each class that a run was given, as far as they can be told.

    Attributes:
        counts: images that each class was measured on.
        measured_on: "data", labelled real images, or "set", synthetic ones; "" where the file does not say.
    """

    counts: tuple[int, ...]
    measured_on: str = ""


class LineageEntry(Config):
    """One thing of the lineage.

    Attributes:
        name: what it is, such as `teacher`.
        sha256: of it; empty where it could not be found.
        what: a line about it.
        where: its address; empty where it has none of its own.
    """

    name: str
    sha256: str = ""
    what: str = ""
    where: str = ""


class PageData(Config):
    """A run, ready to be shown; parts that could not be had are empty and named in `missing`.

    Attributes:
        report: the evaluation.
        recipe: its name, empty where no run is known.
        method: as the field spells it.
        run: the run's record.
        set: the synthetic set's numbers.
        samples: pictures of it.
        histories: by step, in the order of the run.
        health: whether the set collapsed; None where nobody looked.
        statistics: those of each class that the images were made to match; None where the run was given none.
        lineage: from the teacher to the report.
        real: which real images it comes from; None where nobody looked.
        code_version: of the code that made the report.
        hardware: device and precision that the student was trained with; empty where they are not known.
        epochs: of the student's training, 0 where they are not known.
        config: what the run was made with: the resolved recipe, or what student and set say of themselves.
        missing: part -> the reason why it is not shown.
    """

    report: EvaluationReport
    recipe: str = ""
    method: str = ""
    run: RunRecord = RunRecord()
    set: SetFacts = SetFacts()
    samples: tuple[ClassPicture, ...] = ()
    histories: dict[str, History] = Field(default_factory=dict)
    health: HealthReport | None = None
    statistics: ClassStatistics | None = None
    lineage: tuple[LineageEntry, ...] = ()
    real: RealImages | None = None
    code_version: str = ""
    hardware: tuple[str, ...] = ()
    epochs: int = 0
    config: dict[str, Any] = Field(default_factory=dict)
    missing: dict[str, str] = Field(default_factory=dict)

    def seconds(self) -> dict[str, dict[str, float]]:
        """Seconds by step and part, of the steps whose history was found."""
        return {step: history.seconds() for step, history in self.histories.items()}

    def changes(self) -> list[str]:
        """The keys of its recipe that the run was given other values for, so that what the recipe says of itself may not hold."""
        parameters = self.run.parameters
        return sorted({*parameters.get("run_overrides", {}), *(path for name, path in PLACES.items() if parameters.get(name))})

    def command(self) -> str:
        """The command that makes this run again, an option a line; empty where its parameters are not known."""
        if not self.run.parameters:
            return ""
        named = {"run_recipe": self.recipe, **self.run.parameters}
        return as_typed(run_again(named, self.run.environment), " \\\n  ")
