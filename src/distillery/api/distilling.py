"""A recipe from its teacher to an evaluated student, step after step in this process."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillery.api.arguments import Place, as_mapping, as_text, located, new_folder, recipe_source
from distillery.api.process import surroundings, visiting
from distillery.api.progress import silent
from distillery.api.running import StepResult, new_run, run_pipeline
from distillery.api.teachers import load_classifier
from distillery.errors import ConfigError, StoreError
from distillery.host import INPUTS, Watcher
from distillery.ledger.runs import note_results
from distillery.models.allowance import allow_modules
from distillery.recipes.loader import is_own_file, typed_modules
from distillery.recipes.schema import read_recipe, training
from distillery.recipes.student_plans import changed_document
from distillery.step_table import LAST
from distillery.tracking.open import close_parent
from distillery.types import Classifier
from distillery.workbench.bench import open_run_store
from distillery.workbench.students import keep_student


@dataclass(frozen=True)
class Distilled:
    """A finished distillation.

    Attributes:
        folder: everything that is named below lies in it.
        recipe: a preset's name, or a path.
        teacher: folder of the teacher's bundle, or its URI.
        store: folder or s3:// URI that holds checkpoints, the set's shards and the run's record.
        run_id: names the run in the store, and in MLflow.
        steps: every step that ran, by name, in its order; of an ensemble each shard, as `train_generator/1`.
    """

    folder: Path
    recipe: str
    teacher: str
    store: str
    run_id: str
    steps: Mapping[str, StepResult] = field(default_factory=dict, repr=False)

    @property
    def statistics(self) -> Path:
        """The teacher's moments, a file."""
        return self.folder / "statistics.safetensors"

    @property
    def synthesizer(self) -> Path:
        """The trained synthesizer, a folder, with one in it for each shard of an ensemble; `materialize` draws more images from it.

        A method whose target is images leaves none.
        """
        return self.folder / "synthesizer"

    @property
    def set(self) -> Path:
        """Reference to the synthetic set, a folder; `distillery inspect`, `verify` and `export` take it. Of real images they do not."""
        return self.folder / "set"

    @property
    def student(self) -> Path:
        """The student's bundle as it was after the last epoch, a folder; where images were held out, `best/` below it is another."""
        return self.folder / "student"

    @property
    def report(self) -> Path:
        """The evaluation, a JSON file."""
        return self.folder / "report.json"

    @property
    def page(self) -> Path:
        """The evaluation and the whole run as a page to open in a browser."""
        return self.folder / "report.html"

    @property
    def registration(self) -> Path:
        """What the model registry answered, a JSON file; only where it was asked."""
        return self.folder / "registration.json"

    @property
    def metrics(self) -> Mapping[str, float]:
        """The evaluation's numbers: `agreement` with the teacher, and, where labelled data was given, `student/top1`, `teacher/top1`."""
        return self.steps["evaluate"].metrics

    @property
    def registered(self) -> Mapping[str, Any]:
        """What the model registry answered, such as `model_version`; empty where nothing was registered."""
        return self.steps["register"].metrics if "register" in self.steps else {}

    @property
    def seconds(self) -> float:
        """What all steps took together."""
        return sum(step.seconds for step in self.steps.values())

    def load(self) -> Classifier:
        """The student: images (N, C, H, W) float32 in [0, 1] in, logits (N, K) out; on the CPU, in eval mode."""
        return load_classifier(self.student)


def distill(
    teacher: Place,
    recipe: Place,
    out: Place,
    *,
    data: Place = "",
    images: Place = "",
    student_start: Place = "",
    start: Place = "",
    ood: Place = "",
    statistics: Place = "",
    student_method: str = "",
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    salt: str = "",
    store: Place = "",
    device: str = "",
    threads: int = 0,
    registered: bool = False,
    progress: Watcher = silent,
) -> Distilled:
    """Distil a teacher into a student, as a recipe says, in this process.

    The steps are those that `distillery run` runs. A call that was stopped goes on where it was when it is given again; work that was
    done before, here or by a pipeline on the same store, is found and taken. Where `MLFLOW_TRACKING_URI` is set, MLflow observes.
    A network from a module of your own is imported inside `with allow_modules(...)` only. Two threads of a process take turns.

    Args:
        teacher: folder or URI of a bundle, or what `import_teacher` returned.
        recipe: a name that `distillery recipes` lists, or a YAML file of your own.
        out: folder for student, report, page, synthesizer and the set's reference.
        data: labelled test images (npz, npy, idx or CIFAR files, a folder a class), which the evaluation alone reads; "" measures the
            agreement with the teacher on held-out synthetic images.
        images: a set made before, or real images (a folder of pictures, npz, npy, idx or CIFAR files), for a recipe such as
            `students/digits-kd` that trains a student on what is there; "" for the others.
        student_start: bundle with whose weights the student begins: of a student trained before, or of a teacher; "" draws fresh ones.
        start: a set made before with the same teacher, with which the pool of an online method begins; "" for none.
        ood: images of another domain (a folder of pictures, arrays with or without labels, a set), for a method that learns from some and
            stages with an `ood_share`; "" for none.
        statistics: a file of the teacher's moments, measured before, such as those of each class; "" reads the teacher's own buffers.
        student_method: plan of the student's training, such as `fsp-kd`; "" is the recipe's.
        overrides: values of the recipe by dotted path: `{"synthesis.rounds": 40}`.
        seed: of every random stream, from 0 to 2^53 - 1.
        salt: any text; a new one does finished work again.
        store: folder or s3:// URI for checkpoints, shards and records; "" is a folder in `out`.
        device: auto, cpu, cuda or cuda:N; "" leaves it to `DISTILLERY_DEVICE`, else auto.
        threads: CPU threads; 0 leaves them to `DISTILLERY_THREADS`, else torch's choice.
        registered: also register the student with MLflow, behind the gate between challenger and champion.
        progress: told how far each step is, such as `TextProgress()`.

    Returns:
        Where everything is, and its numbers.

    Raises:
        DistilleryError: what a step could not do, in one sentence.
    """
    folder, chosen = new_folder(out), as_mapping(overrides, "overrides")
    uri = located(store, "store") or str(folder / "store")
    run = _Run(folder, recipe_source(recipe), located(teacher, "teacher"), uri, progress)
    if registered and not os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        raise ConfigError("registered=True needs a model registry: set MLFLOW_TRACKING_URI, to a server or to sqlite:///mlflow.db.")
    variables = {**surroundings(uri, folder / "work", device, threads), "KFP_RUN_ID": run.id}
    given = {"data": data, "images": images, "start": start, "ood": ood, "statistics": statistics, "student_start": student_start}
    uris = {name: located(given[argument], argument) for name, argument in INPUTS.items()}
    form = {"run_overrides": chosen, "run_seed": seed, "run_salt": salt, "student_method": as_text(student_method, "student_method")}
    with visiting(run.watch, variables), allow_modules(*typed_modules(chosen)):
        run.make(form, uris, registered)
    return run.result


class _Run:
    """The steps of one run, in order."""

    def __init__(self, folder: Path, recipe: str, teacher: str, store: str, watch: Watcher) -> None:
        self.id = new_run()
        self.done: dict[str, StepResult] = {}
        self.result = Distilled(folder, recipe, teacher, store, self.id, self.done)
        self.watch = watch

    def make(self, chosen: Mapping[str, Any], uris: Mapping[str, str], registered: bool) -> None:
        """Run every step; the last one, which asks the registry, only if wished.

        Args:
            chosen: the run form's values by name, but for teacher, recipe and addresses.
            uris: addresses of data, by the form's names; a step is given those that it reads.
            registered: hand the student to the registry.
        """
        result = self.result
        changes = changed_document(result.recipe, chosen["student_method"], chosen["run_overrides"])
        pipeline = training(read_recipe(changes)).pipeline
        source = "run_recipe_uri" if is_own_file(result.recipe) else "run_recipe"
        _make(result.folder)
        form, given = {**chosen, source: result.recipe}, {"teacher_uri": result.teacher, **uris}
        for task, ended in run_pipeline(
            pipeline, form, given, lambda artifact: Path(getattr(result, artifact)), "" if registered else LAST
        ):
            self.done[task] = ended
        if not registered:
            self._end()

    def _end(self) -> None:
        """What the last step does beside asking the registry: the student goes into the store, and the run's record says where all is."""
        store = open_run_store()
        note_results(store, self.id, {"student": keep_student(store, self.result.student)})
        close_parent("FINISHED")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"Cannot make the folder {str(folder)!r}: {error.strerror}; name another one as out.") from None
