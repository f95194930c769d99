"""Students on real data sets, row by row: each finished row lands as a JSON of its own, so that a sweep goes on where it stopped.

    python benchmarks/quality.py --data DIR --dataset fashion_mnist              all rows, seeds 0, 1, 2
    python benchmarks/quality.py --data DIR --dataset cifar10 --rows fast_dfkd,ls_gdfd --seeds 0
    python benchmarks/quality.py --data DIR --rows fast_dfkd --seeds 0 --blind --set synthesis.config.label_weight=1
    python benchmarks/quality.py --data DIR --rows ls_gdfd --statistics FILE --set synthesis.config.targets=class

Rows: `teacher`, trained once on the real images; `fast_dfkd` and `ls_gdfd`, students without any; `noise`, LS-GDFD's student and plan on
noise; `real`, the same by KD on the real images, the ceiling. A row is known by its settings, so that other settings make other rows.
`--blind` reads no test image and writes no row: it tunes methods by their agreement with the teacher on held-out synthetic images.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillery import distill
from distillery.config import canonical_json
from distillery.data.real import load_labelled
from distillery.errors import DistilleryError
from distillery.evaluation.predict import predict
from distillery.evaluation.report import EvaluationReport, load_report
from distillery.methods.catalog import METHODS
from distillery.models.bundle import count_parameters, load_classifier, read_bundle
from distillery.provenance import sha256_bytes
from distillery.recipes.loader import load_recipe, parse_assignments, recipe_names
from distillery.recipes.schema import DistillationRecipe, StudentsRecipe, training
from distillery.recipes.workload import workload_of
from distillery.runtime import Runtime, resolve_runtime
from distillery.statistics.moments import read_origin
from distillery.storage import FolderStore
from distillery.tracking.history import Entry, read_history
from distillery.types import Classifier
from distillery_kfp.pipelines.cli.commands.train_student import train_student
from measure import document, write
from real_data import CLASSES, load, unpack
from teachers import TRAININGS, Training, train_teacher

_PRESETS = {"fashion_mnist": "fashion_mnist", "cifar10": "cifar10-laptop"}
RECIPES = {
    dataset: {method: name for method in METHODS if (name := f"{method}/{preset}") in recipe_names()}
    for dataset, preset in _PRESETS.items()
}
ROWS = {dataset: ("teacher", *recipes, "noise", "real") for dataset, recipes in RECIPES.items()}
PLAN = "ls_gdfd"
"""Whose student, plan and number of images the two comparisons take."""


@dataclass(frozen=True)
class Sweep:
    """What the rows of a data set share.

    Attributes:
        dataset: a key of `RECIPES`.
        data: folder with the data sets.
        folder: runs, teachers and unpacked images; ignored by git.
        results: gets a JSON a row.
        training: of the teacher.
        runtime: of everything.
        recipes: row -> recipe.
        overrides: of these recipes.
        blind: read no test image, write no row.
        statistics: file of the teacher's moments for the methods' rows; "" for its own buffers.
    """

    dataset: str
    data: Path
    folder: Path
    results: Path
    training: Training
    runtime: Runtime
    recipes: Mapping[str, str]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    blind: bool = False
    statistics: str = ""

    @property
    def home(self) -> Path:
        """The teacher's folder: another training is another teacher."""
        return self.folder / self.dataset / f"teacher-{short_hash(self.training.to_json())}"

    @property
    def teacher(self) -> Path:
        """The teacher's bundle."""
        return self.home / "teacher"

    def part(self, name: str) -> Path:
        """The npz file of `train` or `test`."""
        return unpack(self.dataset, self.data, name, self.folder / self.dataset)

    def source(self, row: str) -> str:
        """The name of a row's recipe; the comparisons take the plan's."""
        return self.recipes.get(row, self.recipes[PLAN])

    def changes(self, row: str) -> dict[str, Any]:
        """What replaces values of a row's recipe: keys meant for it, or for every row."""
        own = row if row in self.recipes else PLAN
        keys = ((key.rpartition(":"), value) for key, value in self.overrides.items())
        return {key: value for (meant, _, key), value in keys if meant in ("", own)}

    def recipe(self, row: str) -> StudentsRecipe:
        """The resolved recipe of a row."""
        return training(load_recipe(self.source(row), self.changes(row)))


@dataclass(frozen=True)
class Found:
    """What a row came to.

    Attributes:
        scores: for the JSON: of the student, and of the run.
        seconds: of everything that made it.
    """

    scores: dict[str, Any]
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the rows that are asked for and not there; the exit code."""
    sweep, rows, seeds = parse(arguments)
    try:
        train_once(sweep)
        for seed in seeds:
            for row in rows:
                if row in sweep.recipes or (row != "teacher" and not sweep.blind):
                    measure(sweep, row, seed)
    except DistilleryError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: Sequence[str] | None) -> tuple[Sweep, list[str], list[int]]:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with fashion_mnist/ and cifar10/")
    parser.add_argument("--dataset", choices=list(RECIPES), default="fashion_mnist")
    parser.add_argument("--rows", default="", help="some of teacher, noise, real and the methods that have a recipe for the data set")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--recipe", action="append", default=[], metavar="ROW=RECIPE", help="another recipe for a row")
    parser.add_argument("--set", action="append", default=[], metavar="[ROW:]KEY=VALUE", help="replace a value of the recipes")
    parser.add_argument("--teacher", action="append", default=[], metavar="KEY=VALUE", help="replace a value of the teacher's training")
    parser.add_argument("--folder", type=Path, default=Path(".quality"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--statistics", default="", metavar="FILE", help="the teacher's moments, such as those of each class")
    parser.add_argument("--blind", action="store_true", help="no test image: score by held-out synthetic images")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    known = ROWS[given.dataset]
    rows = given.rows.split(",") if given.rows else list(known)
    if unknown := sorted(set(rows) - set(known)):
        parser.error(f"there is no row {unknown[0]!r}: choose from {', '.join(known)}")
    training = Training.parse({**TRAININGS[given.dataset].to_json(), **parse_assignments(given.teacher)}, "teacher")
    recipes = {**RECIPES[given.dataset], **dict(text.split("=", 1) for text in given.recipe)}
    sweep = Sweep(
        given.dataset,
        given.data,
        given.folder.absolute(),
        given.results,
        training,
        resolve_runtime(given.device),
        recipes,
        parse_assignments(given.set),
        given.blind,
        given.statistics,
    )
    return sweep, rows, [int(seed) for seed in given.seeds.split(",")]


def train_once(sweep: Sweep) -> None:
    """The teacher, trained where it is not there yet."""
    row = sweep.results / f"{sweep.dataset}-teacher-{short_hash(sweep.training.to_json())}.json"
    if not (sweep.teacher / "bundle.json").is_file():
        train = load(sweep.dataset, sweep.data, "train", sweep.folder / sweep.dataset)
        made = train_teacher(sweep.home, sweep.training, train, CLASSES[sweep.dataset], sweep.runtime)
        (sweep.home / "seconds").write_text(f"{made['seconds']:.1f}\n")
    if sweep.blind or row.is_file():
        return
    scores = describe(load_classifier(sweep.teacher).freeze(), sweep.training.architecture.name, sweep)
    seconds = float((sweep.home / "seconds").read_text())
    fields = {"dataset": sweep.dataset, "row": "teacher", "seed": 0, "settings": short_hash(sweep.training.to_json())}
    save(sweep, row, {**fields, "training": sweep.training.to_json(), "teacher": scores}, seconds)


def measure(sweep: Sweep, row: str, seed: int) -> None:
    """One row, unless its JSON is there."""
    recipe, teacher_sha256 = sweep.recipe(row), read_bundle(sweep.teacher)[1]
    chosen = {"row": row, "recipe": recipe.to_json(), "teacher": teacher_sha256, "precision": sweep.runtime.precision}
    measured = {"statistics": measured_on(sweep.statistics)} if sweep.statistics and row in sweep.recipes else {}
    settings = short_hash({**chosen, **measured})
    path = sweep.results / f"{sweep.dataset}-{row}-{settings}-seed{seed}.json"
    if path.is_file() and not sweep.blind:
        print(f"{path.name}: is there")
        return
    folder = sweep.home / f"{row}-{settings}-{'blind' if sweep.blind else 'seed'}{seed}"
    found = {"noise": on_noise, "real": on_real}.get(row, distilled)(sweep, row, folder, seed)
    fields = {
        "dataset": sweep.dataset,
        "row": row,
        "seed": seed,
        "settings": settings,
        "recipe": sweep.source(row),
        "overrides": sweep.changes(row),
        "teacher_training": short_hash(sweep.training.to_json()),
        **measured,
        **several(sweep, recipe, row),
    }
    save(sweep, path, {**fields, **found.scores}, found.seconds)


def measured_on(statistics: str) -> dict[str, str]:
    """What a file of moments was measured on: the hash of real images, or of a set."""
    return {name: digest for name, digest in read_origin(Path(statistics)).inputs.items() if name in ("data", "set")}


def several(sweep: Sweep, recipe: StudentsRecipe, row: str) -> dict[str, int]:
    """How many generators made a row's images, where it is more than one."""
    if row not in sweep.recipes or not isinstance(recipe, DistillationRecipe):
        return {}
    number = recipe.generators(len(CLASSES[sweep.dataset]))
    return {"generators": number} if number > 1 else {}


def distilled(sweep: Sweep, row: str, folder: Path, seed: int) -> Found:
    """A student without real images; goes on where it was stopped."""
    data = "" if sweep.blind else str(sweep.part("test"))
    run = distill(
        sweep.teacher, sweep.recipes[row], folder, data=data, seed=seed, overrides=sweep.changes(row), statistics=sweep.statistics
    )
    report = load_report(run.report)
    scores: dict[str, Any] = {
        "teacher": of_report(report, "teacher"),
        "student": of_report(report, "student"),
        "agreement": {"agreed": report.agreement.agreed, "total": report.agreement.total, "images": report.source},
    }
    store, pieces = folder / "store", Counter(step.partition("/")[0] for step in run.steps)
    for best in report.best:
        scores["best"] = {"agreement": best.agreement, "correct": best.correct, "total": best.total}
    learned = next(step for step in ("distill_online", "train_student") if step in pieces)
    made = [entry for step in ("train_generator", "materialize") if step in pieces for entry in told(store, step, pieces[step])]
    before, laps = seconds_of(made), told(store, learned)
    scores["curve"] = curve(report, sweep.recipe(row), laps, before)
    return Found(scores, before + seconds_of(laps))


def on_noise(sweep: Sweep, row: str, folder: Path, seed: int) -> Found:
    """A student that saw noise only, as many images as its recipe synthesizes."""
    return taught_on(f"noise://{workload_of(sweep.recipe(row)).images}?seed={seed}", sweep, row, folder, seed)


def on_real(sweep: Sweep, row: str, folder: Path, seed: int) -> Found:
    """A student taught on the teacher's own images."""
    return taught_on(str(sweep.part("train")), sweep, row, folder, seed)


def taught_on(images: str, sweep: Sweep, row: str, folder: Path, seed: int) -> Found:
    """A student taught on images that are there; goes on where it was stopped."""
    recipe, out = sweep.recipe(row), folder / "student"
    changes, work = assignments(sweep.changes(row)), str(folder / "work")
    train_student(sweep.source(row), str(sweep.teacher), out, images=images, set_=changes, seed=seed, workdir=work)
    seconds = seconds_of(told(folder / "work" / "store", "train_student"))
    return Found(scores_of(sweep, load_classifier(out).freeze(), recipe), seconds)


def scores_of(sweep: Sweep, student: Classifier, recipe: StudentsRecipe) -> dict[str, Any]:
    """Student and teacher on the test images."""
    teacher = load_classifier(sweep.teacher).freeze()
    return {
        "teacher": describe(teacher, sweep.training.architecture.name, sweep),
        "student": describe(student.eval(), recipe.student.architecture.name, sweep),
    }


def describe(classifier: Classifier, name: str, sweep: Sweep) -> dict[str, Any]:
    """A model's size and, unless blind, its test images named right."""
    model: dict[str, Any] = {"name": name, "parameters": count_parameters(classifier.network)}
    if not sweep.blind:
        test = load_labelled(str(sweep.part("test")))
        logits = predict(sweep.runtime.place(classifier), test.images)
        model |= {"correct": int((logits.argmax(1) == test.labels).sum()), "total": len(test)}
    return model


def of_report(report: EvaluationReport, role: str) -> dict[str, Any]:
    """A model of an evaluation."""
    model = getattr(report, role)
    found = {"name": model.name, "parameters": model.cost.parameters}
    return found | ({"correct": model.accuracy.correct, "total": model.accuracy.total} if report.labelled else {})


def curve(report: EvaluationReport, recipe: StudentsRecipe, laps: Sequence[Entry], before: float) -> list[dict[str, Any]]:
    """Kept epochs with the minutes at which each was reached.

    Args:
        report: its snapshots.
        recipe: says how epochs and rounds go together.
        laps: the entries of the step that trained the student.
        before: seconds of the steps before it.
    """
    points = []
    for score in report.snapshots:
        if not score.name.startswith("epochs/"):
            continue
        epoch = int(score.name.rpartition("/")[2])
        count = epoch
        if isinstance(recipe, DistillationRecipe) and recipe.synthesis.student_steps_per_turn:
            steps = epoch * recipe.student.stages[0].steps_per_epoch
            turns = recipe.settings.warmup_turns - (-steps // recipe.synthesis.student_steps_per_turn)
            count = -(-turns // recipe.synthesis.turns_per_round)
        minutes = (before + seconds_of(laps[:count])) / 60
        points.append({"epoch": epoch, "minutes": round(minutes, 2), "correct": score.correct, "total": score.total})
    return points


def told(store: Path, step: str, pieces: int = 1) -> list[Entry]:
    """The rounds of a step whose history is in a store: of its newest pieces, since it may have run with two versions of the code."""
    files = sorted(store.glob(f"checkpoints/{step}/*/history.json"), key=lambda path: path.stat().st_mtime)
    return [entry for path in files[-pieces:] for entry in read_history(FolderStore(path.parent)).rounds]


def seconds_of(entries: Sequence[Entry]) -> float:
    """Wall seconds of some rounds."""
    return sum(sum(entry.seconds.values()) for entry in entries)


def save(sweep: Sweep, path: Path, fields: Mapping[str, Any], seconds: float) -> None:
    """Write a row and say what it is; a blind one stays in the ignored folder."""
    target = sweep.folder / "tries" / path.name if sweep.blind else path
    write(target, document("quality", sweep.runtime, {**fields, "minutes": round(seconds / 60, 1)}))
    model = fields.get("student", fields["teacher"])
    scored = f"{model['correct']}/{model['total']}" if "correct" in model else ""
    if "agreement" in fields:
        agreement = fields["agreement"]
        scored += f", agrees on {agreement['agreed']}/{agreement['total']} {agreement['images']} images"
    print(f"{target.name}: {scored}, {model['parameters']:,} parameters, {seconds / 60:.1f} min", flush=True)


def assignments(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as `--set` takes them; JSON is YAML."""
    return [f"{key}={canonical_json(value)}" for key, value in overrides.items()]


def short_hash(value: Mapping[str, Any]) -> str:
    """Eight letters that stand for settings."""
    return sha256_bytes(canonical_json(dict(value)).encode())[:8]


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    sys.exit(main())
