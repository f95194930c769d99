"""Plans of a student beside each other, seed by seed: on synthetic digits, or FSP's three experiments on real images.

    python benchmarks/students.py synthetic                                     every plan that needs no label, on FastDFKD's sets of digits
    python benchmarks/students.py fast --data DIR --dataset fashion_mnist       FSP's fast optimization, DIR as in benchmarks/quality.py
    python benchmarks/students.py minimization | transfer --data DIR ...        FSP's smaller student, and its student of other classes

Each finished student leaves its score in `--folder`, so that a sweep goes on where it stopped, and parts of one (`--rows`, `--seeds`) can
run side by side; where no score of the sweep is missing, the table is printed and written to benchmarks/results. The last epoch counts.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillery.engine.feeds import LabelledFeed, PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.evaluation.predict import predict
from distillery.models.bundle import count_parameters
from distillery.models.catalog import Architecture
from distillery.recipes.loader import apply_overrides
from distillery.recipes.student_plans import apply_plan
from distillery.runtime import Runtime, resolve_runtime
from distillery.seeding import derive_seed
from distillery.students.plan import StudentConfig
from distillery.workbench.assembly import build_student
from measure import document, write
from student_data import Ground, real_ground, synthetic_ground


@dataclass(frozen=True)
class Row:
    """One way to train a student.

    Attributes:
        says: what it is, for the table.
        plan: a plan of `recipes/_student_plans`.
        changes: overrides of the student's stages once the plan is applied.
        thirds: of the experiment's epochs that it takes in all.
        begins: the row whose weights after its first stage it begins with, its own first stage left out; "" begins anew.
        goes_on: trains the teacher on, instead of a student.
        members: rows whose answers are averaged; nothing is trained.
    """

    says: str
    plan: str = "kd"
    changes: Mapping[str, Any] = field(default_factory=dict)
    thirds: int = 3
    begins: str = ""
    goes_on: bool = False
    members: tuple[str, ...] = ()


_FSP = "student.stages.0.objectives.0"
SYNTHETIC = {
    "kd": Row("KD alone"),
    "fsp-kd": Row("FSP, then KD", "fsp-kd"),
    "fsp-shuffled": Row("FSP of shuffled matrices, then KD", "fsp-kd", {f"{_FSP}.shuffled": True}),
    "fitnets": Row("a hint, then KD (FitNets)", "fitnets"),
    "fitnets-one-stage": Row("KD and a hint together", "fitnets-one-stage"),
    "attention-kd": Row("KD and attention together", "attention-kd"),
    "attention-kd-50": Row(
        "KD and attention together, a twentieth of the weight", "attention-kd", {"student.stages.0.objectives.1.weight": 50.0}
    ),
}
FAST = {
    "plain": Row("plain training", "plain"),
    "plain-third": Row("plain training, a third of it", "plain", thirds=1),
    "kd-third": Row("KD, a third", "kd", thirds=1),
    "fsp-1": Row("FSP a third, then plain a third: net 1", "fsp", thirds=2),
    "fsp-2": Row("net 2: from the same FSP", "fsp", thirds=2, begins="fsp-1"),
    "fsp-3": Row("net 3: from the same FSP", "fsp", thirds=2, begins="fsp-1"),
    "fsp-ensemble": Row("the three together", members=("fsp-1", "fsp-2", "fsp-3")),
    "fsp-shuffled": Row("FSP of shuffled matrices a third, then plain a third", "fsp", {f"{_FSP}.shuffled": True}, thirds=2),
    "teacher-longer": Row("the teacher, trained a third longer", "plain", thirds=1, goes_on=True),
}
SMALLER = {
    "plain": Row("plain training", "plain"),
    "kd": Row("KD", "kd"),
    "fitnets": Row("a hint, then KD (FitNets)", "fitnets"),
    "fsp": Row("FSP, then plain training", "fsp"),
}
TRANSFER = {
    "plain": Row("plain training", "plain"),
    "fitnets": Row("a hint, then plain training", "fitnets", {"student.stages.1.objectives.0.name": "cross_entropy"}),
    "fsp": Row("FSP, then plain training", "fsp"),
}


@dataclass(frozen=True)
class Experiment:
    """What a table compares.

    Attributes:
        rows: by name.
        teacher: architecture; "" is the digits' own.
        student: architecture.
        arguments: of both.
        epochs: of the whole, whatever a plan makes of them.
        steps: of an epoch.
        batch: images a step.
        rate: of the optimizer at first.
        classes: those that the teacher knows; the others are the student's. None are all, of both.
    """

    rows: Mapping[str, Row]
    teacher: str
    student: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 6
    steps: int = 80
    batch: int = 64
    rate: float = 0.1
    classes: tuple[int, ...] = ()


EXPERIMENTS = {
    "synthetic": Experiment(SYNTHETIC, "", "wrn_10_2", epochs=13, steps=20),
    "fast": Experiment(FAST, "resnet26", "resnet26", {"base_width": 8}),
    "minimization": Experiment(SMALLER, "resnet26", "resnet8", {"base_width": 8}),
    "transfer": Experiment(TRANSFER, "resnet34", "resnet20_four_stages", {"base_width": 8}, classes=(0, 1, 2, 3, 4)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for and not there; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--data", type=Path, default=Path(), help="folder with fashion_mnist/ and cifar10/, for real images")
    parser.add_argument("--dataset", choices=("fashion_mnist", "cifar10"), default="fashion_mnist")
    parser.add_argument("--rows", default="", help="some rows only, separated by commas")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--folder", type=Path, default=Path(".students"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args(arguments)
    experiment = EXPERIMENTS[given.experiment]
    seeds = [int(seed) for seed in given.seeds.split(",")]
    rows = given.rows.split(",") if given.rows else list(experiment.rows)
    if unknown := sorted(set(rows) - set(experiment.rows)):
        parser.error(f"there is no row {unknown[0]!r}: choose from {', '.join(experiment.rows)}")
    runtime = resolve_runtime(precision="float32", threads=1)
    dataset = "digits" if given.experiment == "synthetic" else given.dataset
    place = given.folder / f"{given.experiment}-{dataset}"
    for seed in seeds:
        ground = None
        for row in rows:
            if not (place / f"{row}-{seed}.pt").is_file():
                ground = ground or _ground(given.experiment, dataset, given.folder, given.data, runtime, seed)
                measure(experiment, row, ground, place, runtime, seed)
    return publish(given.experiment, dataset, place, seeds, runtime, given.results)


def _ground(name: str, dataset: str, folder: Path, data: Path, runtime: Runtime, seed: int) -> Ground:
    if name == "synthetic":
        return synthetic_ground(folder, runtime, seed)
    experiment = EXPERIMENTS[name]
    architecture = Architecture(name=experiment.teacher, arguments=dict(experiment.arguments))
    steps = experiment.epochs * experiment.steps
    return real_ground(folder, dataset, data, architecture, steps, experiment.batch, experiment.classes, runtime)


def measure(experiment: Experiment, name: str, ground: Ground, place: Path, runtime: Runtime, seed: int) -> None:
    """Train one student, or average some; leave its answers, its weights after the first stage, and its score."""
    row = experiment.rows[name]
    if row.members:
        logits = torch.stack([_read(place, member, seed)["logits"].softmax(1) for member in row.members]).mean(0)
        found: dict[str, Any] = {"logits": logits, "parameters": 0}
    else:
        found = train(experiment, name, ground, place, runtime, seed)
    found |= {"correct": int((found["logits"].argmax(1) == ground.test.labels).sum()), "total": len(ground.test)}
    found |= {"teacher": dict(ground.score)}
    place.mkdir(parents=True, exist_ok=True)
    torch.save(found, place / f"{name}-{seed}.pt")
    print(f"{name} seed {seed}: {found['correct']}/{found['total']}", flush=True)


def train(experiment: Experiment, name: str, ground: Ground, place: Path, runtime: Runtime, seed: int) -> dict[str, Any]:
    """One student to the end of its plan."""
    row = experiment.rows[name]
    config = StudentConfig.parse(plan_of(experiment, row)["student"], "student")
    architecture = ground.architecture if row.goes_on else config.architecture
    student = build_student(architecture, ground.teacher, runtime, seed, ground.class_names)
    stages = config.stages
    if row.goes_on:
        student.load_state_dict(ground.teacher.state_dict())
    if row.begins:
        student.load_state_dict(_read(place, row.begins, seed)["first"])
        stages = stages[1:]
    # nets of one first stage differ by the order and the crops of their images only
    draws = derive_seed(seed, name) if row.begins else seed
    trainer = StudentTrainer(stages, ground.teacher, student, runtime, draws)
    feed = LabelledFeed(ground.pool) if ground.labelled else PoolFeed(ground.pool)
    first: dict[str, Tensor] = {}
    for number, stage in enumerate(stages):
        trainer.train(stage.epochs * stage.steps_per_epoch, feed)
        if not number and len(config.stages) > 1 and not row.begins:
            first = {key: value.clone() for key, value in student.state_dict().items()}
    return {"logits": predict(student, ground.test.images), "parameters": count_parameters(student.network), "first": first}


def plan_of(experiment: Experiment, row: Row) -> dict[str, Any]:
    """The document of a row's student."""
    stage = {
        "objectives": [{"name": "kd", "temperature": 4.0}],
        "epochs": max(experiment.epochs * row.thirds // 3, 1),
        "steps_per_epoch": experiment.steps,
        "batch": experiment.batch,
        "optimizer": {"name": "sgd", "rate": experiment.rate, "momentum": 0.9, "weight_decay": 0.0005},
        "schedule": {"name": "cosine"},
        "augment": {"crop_padding": 2, "flip": experiment.teacher != ""},
    }
    student = {"architecture": {"name": experiment.student, "arguments": dict(experiment.arguments)}, "stages": [stage]}
    return apply_overrides(apply_plan({"student": student}, row.plan), row.changes)


def publish(name: str, dataset: str, place: Path, seeds: Sequence[int], runtime: Runtime, results: Path) -> int:
    """The table, where it is whole."""
    experiment = EXPERIMENTS[name]
    paths = {row: [place / f"{row}-{seed}.pt" for seed in seeds] for row in experiment.rows}
    if missing := [path.stem for found in paths.values() for path in found if not path.is_file()]:
        print(f"no table yet: {', '.join(missing)} are missing")
        return 0
    rows, teacher = {}, {}
    for row, found in paths.items():
        scores = [torch.load(path, weights_only=True) for path in found]
        correct, total = [score["correct"] for score in scores], scores[0]["total"]
        teacher = scores[0]["teacher"]
        rows[row] = {
            "says": experiment.rows[row].says,
            "correct": correct,
            "total": total,
            "mean_percent": round(100 * sum(correct) / len(correct) / total, 2),
            "lowest_percent": round(100 * min(correct) / total, 2),
            "steps": 0 if experiment.rows[row].members else _steps(experiment, experiment.rows[row]),
            "parameters": scores[0]["parameters"],
        }
        print(f"{rows[row]['says']:56} mean {rows[row]['mean_percent']:6.2f} %  lowest {rows[row]['lowest_percent']:6.2f} %  {correct}")
    setting = {key: value for key, value in vars(experiment).items() if key != "rows"}
    fields = {"experiment": name, "dataset": dataset, "n": len(seeds), "setting": setting, "teacher": teacher, "rows": rows}
    write(results / f"students-{name}-{dataset}-n{len(seeds)}.json", document("students", runtime, fields))
    return 0


def _steps(experiment: Experiment, row: Row) -> int:
    stages = plan_of(experiment, row)["student"]["stages"]
    return sum(int(stage["epochs"]) * int(stage["steps_per_epoch"]) for stage in stages)


def _read(place: Path, row: str, seed: int) -> dict[str, Any]:
    path = place / f"{row}-{seed}.pt"
    assert path.is_file(), f"{row} of seed {seed} comes first"
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    sys.exit(main())
