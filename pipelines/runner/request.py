"""What a run is asked for, and the command that asks for it again."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillery.errors import ConfigError
from distillery.host import INPUTS
from distillery.recipes.loader import is_own_file, pipeline_of
from distillery.recipes.student_plans import changed_document
from distillery.reporting.command import as_typed, resume_again, run_again, surroundings_of

_DEVICE = re.compile(r"|auto|cpu|cuda(:[0-9]+)?")  # "" leaves what the environment says


@dataclass(frozen=True)
class RunRequest:
    """What to run; a device that cannot be one is refused with a ConfigError.

    Attributes:
        recipe: a preset's name, or a path to the user's own YAML file.
        teacher: folder of the teacher's bundle.
        store: where results and checkpoints go.
        workdir: local workspace for logs, locks, kfp's files and the tracking database.
        data: labelled images for the evaluation; "" for none.
        start: a set of the same teacher, with which the pool of an online method begins; "" for none.
        ood: images of another domain, for a method or a stage that uses some; "" for none.
        statistics: a file of the teacher's moments, measured before; "" for none.
        images: a set, or real images, for a recipe that trains a student on what is there; "" for none.
        student_start: bundle with whose weights the student begins; "" for none.
        student_method: plan of the student's training; "" is the recipe's.
        overrides: dotted keys of the recipe and their values.
        seed: of every random stream.
        salt: a new value forces new work.
        device: auto, cpu, cuda or cuda:N; "" leaves what the environment says.
        threads: CPU threads of a step; 0 leaves what the environment says.
        teacher_sha256: refuse any other teacher; "" takes any.
        form: further fields of the run form, by name.
        run_id: goes on under this id, whose record is there; "" begins a new run.
    """

    recipe: str
    teacher: str
    store: str
    workdir: Path
    data: str = ""
    start: str = ""
    ood: str = ""
    statistics: str = ""
    images: str = ""
    student_start: str = ""
    student_method: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    salt: str = ""
    device: str = ""
    threads: int = 0
    teacher_sha256: str = ""
    form: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f"--device {self.device!r} is not allowed: choose auto, cpu, cuda or cuda:N.")

    def pipeline(self) -> str:
        """The pipeline that runs the recipe.

        Raises:
            DistilleryError: an unknown recipe or method, or overrides that do not fit it.
        """
        return pipeline_of(changed_document(self.recipe, self.student_method, self.overrides))

    def arguments(self) -> dict[str, Any]:
        """The pipeline's parameters; what is left out keeps its default."""
        own = is_own_file(self.recipe)
        source = {"run_recipe_uri": _absolute(self.recipe)} if own else {"run_recipe": self.recipe}
        places = {name: _absolute(place) for name, argument in INPUTS.items() if (place := getattr(self, argument))}
        chosen: dict[str, Any] = {"run_overrides": self.overrides, "run_seed": self.seed, "run_salt": self.salt}
        chosen |= {"student_method": self.student_method} if self.student_method else {}
        pinned = {"teacher_sha256": self.teacher_sha256} if self.teacher_sha256 else {}
        return {**self.form, **source, **places, **chosen, **pinned, "teacher_uri": _absolute(self.teacher)}

    def surroundings(self) -> dict[str, Any]:
        """Where and with what it is started; stands in the run's record."""
        return surroundings_of(_absolute(self.store), _absolute(str(self.workdir)), self.device, self.threads)

    def command(self) -> str:
        """What a shell takes to ask for the same again; a run that was resumed is resumed again."""
        again = resume_again(self.run_id, self.surroundings()) if self.run_id else run_again(self.arguments(), self.surroundings())
        return as_typed(again)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())
