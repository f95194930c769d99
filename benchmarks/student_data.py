"""What plans of students are compared on: a teacher, images to train on, and test images; made once and kept in an ignored folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distillery import distill
from distillery.data.pool import ImagePool
from distillery.data.real import LabelledImages, load_labelled
from distillery.data.reference import open_reference
from distillery.engine.feeds import LabelledFeed
from distillery.engine.fit import StudentTrainer
from distillery.evaluation.predict import predict
from distillery.models.bundle import load_classifier, read_bundle
from distillery.models.catalog import Architecture, build_network
from distillery.runtime import Runtime
from distillery.seeding import seeded
from distillery.students.plan import OptimizerConfig, StageConfig
from distillery.types import Classifier
from distillery_kfp.pipelines.demo.digits import TeacherTraining, make_teacher, spec_of
from real_data import CLASSES, load

RECIPE = "fast_dfkd/digits"


@dataclass(frozen=True)
class Ground:
    """One comparison's.

    Attributes:
        teacher: frozen.
        architecture: of the teacher.
        pool: what students are trained on, with labels where they are real.
        labelled: whether it has them.
        test: images with labels of the student's classes.
        class_names: of the student.
        score: of the teacher on its own test images: correct and total.
    """

    teacher: Classifier
    architecture: Architecture
    pool: ImagePool
    labelled: bool
    test: LabelledImages
    class_names: tuple[str, ...]
    score: Mapping[str, int]


def synthetic_ground(folder: Path, runtime: Runtime, seed: int) -> Ground:
    """FastDFKD's set of digits of a seed, and the one teacher of all."""
    home = folder.absolute() / "digits"
    if not (home / "teacher").is_dir():
        make_teacher(home, TeacherTraining(), runtime)
    out = home / f"fast_dfkd-{seed}"
    if not (out / "report.json").is_file():
        distill(home / "teacher", RECIPE, out, data=home / "test.npz", seed=seed)
    images = open_reference(out / "set").load("train").images
    teacher = runtime.place(load_classifier(home / "teacher").freeze())
    pool = ImagePool(teacher.spec, runtime.device, capacity=len(images))
    pool.append(images)
    test = load_labelled(str(home / "test.npz"))
    architecture = read_bundle(home / "teacher")[0].architecture
    return Ground(teacher, architecture, pool, False, test, teacher.class_names, score_of(teacher, test))


def real_ground(
    folder: Path, dataset: str, data: Path, architecture: Architecture, steps: int, batch: int, classes: tuple[int, ...], runtime: Runtime
) -> Ground:
    """Real images, and a teacher trained on them by their labels.

    Args:
        folder: keeps the unpacked images and the teacher.
        dataset: a key of `CLASSES`.
        data: the user's folder.
        architecture: of the teacher.
        steps: of its training.
        batch: of its training.
        classes: the teacher's; students learn the others. None: both learn all.
        runtime: of everything.
    """
    cache = folder.absolute() / dataset
    train, test = (load(dataset, data, part, cache) for part in ("train", "test"))
    everything = tuple(range(len(CLASSES[dataset])))
    known = classes or everything
    wanted = tuple(sorted(set(everything) - set(classes))) or everything
    teacher = _teacher(cache, architecture, chosen(train, known), names_of(dataset, known), steps, batch, runtime)
    images = chosen(train, wanted)
    pool = ImagePool(teacher.spec, runtime.device, capacity=len(images))
    pool.append(images.images, images.labels)
    score = score_of(teacher, chosen(test, known))
    return Ground(teacher, architecture, pool, True, chosen(test, wanted), names_of(dataset, wanted), score)


def _teacher(
    cache: Path, architecture: Architecture, train: LabelledImages, names: tuple[str, ...], steps: int, batch: int, runtime: Runtime
) -> Classifier:
    width = architecture.arguments["base_width"]
    path = cache / f"{architecture.name}-{width}-{len(names)}-{steps}.pt"
    spec = spec_of(train.images)
    with seeded(0, "teacher", "weights"):
        teacher = runtime.place(Classifier(build_network(architecture, spec, len(names)), spec, names))
    if path.is_file():
        teacher.load_state_dict(torch.load(path, weights_only=True))
        return teacher.freeze()
    optimizer = OptimizerConfig(rate=0.1, weight_decay=0.0005)
    objectives: tuple[dict[str, Any], ...] = ({"name": "cross_entropy"},)
    stage = StageConfig(objectives=objectives, epochs=steps, steps_per_epoch=1, batch=batch, optimizer=optimizer)
    pool = ImagePool(spec, runtime.device, capacity=len(train))
    pool.append(train.images, train.labels)
    StudentTrainer((stage,), teacher.eval(), teacher, runtime, 0).train(steps, LabelledFeed(pool))
    torch.save(teacher.state_dict(), path)
    return teacher.freeze()


def chosen(images: LabelledImages, classes: tuple[int, ...]) -> LabelledImages:
    """The images of some classes, these counted from 0."""
    place = torch.full((int(images.labels.max()) + 1,), -1)
    place[list(classes)] = torch.arange(len(classes))
    kept = place[images.labels] >= 0
    return LabelledImages(images.images[kept], place[images.labels[kept]])


def names_of(dataset: str, classes: tuple[int, ...]) -> tuple[str, ...]:
    """Names of some classes."""
    return tuple(CLASSES[dataset][number] for number in classes)


def score_of(classifier: Classifier, test: LabelledImages) -> dict[str, int]:
    """A network on test images."""
    return {"correct": int((predict(classifier, test.images).argmax(1) == test.labels).sum()), "total": len(test)}
