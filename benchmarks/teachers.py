"""Teachers for the quality benchmarks: trained once on real images, kept in an ignored folder, epoch by epoch if stopped."""

import time
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch.nn import functional

from distillery.config import Config
from distillery.data.augment import AugmentConfig, augment
from distillery.data.pool import ImagePool
from distillery.data.real import LabelledImages
from distillery.models.bundle import DOCUMENT
from distillery.models.catalog import Architecture, build_network
from distillery.optim.restore import restore_strides
from distillery.runtime import Runtime
from distillery.seeding import seeded, stream
from distillery.steps import import_teacher
from distillery.types import Classifier
from distillery_kfp.pipelines.demo.digits import spec_of
from measure import synchronize


class Training(Config):
    """How a teacher is trained: SGD with momentum, its rate rising to `rate` and falling to 0 in one cycle.

    Attributes:
        rise: share of all steps in which the rate rises.
    """

    architecture: Architecture
    epochs: int = Field(ge=1)
    batch: int = Field(default=128, ge=2)
    rate: float = Field(default=0.2, gt=0)
    rise: float = Field(default=0.25, gt=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    augment: AugmentConfig = AugmentConfig()


TRAININGS = {
    "fashion_mnist": Training(architecture=Architecture(name="wrn_10_2"), epochs=6, augment=AugmentConfig(crop_padding=1, flip=True)),
    "cifar10": Training(architecture=Architecture(name="wrn_10_2"), epochs=6, augment=AugmentConfig(crop_padding=4, flip=True)),
}
FULL_CIFAR10 = Training(architecture=Architecture(name="wrn_40_2"), epochs=60, rate=0.2, augment=AugmentConfig(crop_padding=4, flip=True))
"""For a GPU: the published pair's teacher."""


def train_teacher(
    folder: Path, training: Training, train: LabelledImages, names: tuple[str, ...], runtime: Runtime, seed: int = 0
) -> dict[str, Any]:
    """Train a teacher and import it as anybody's checkpoint is; a stopped training goes on after its last epoch.

    Args:
        folder: gets `teacher/`, a bundle, and `training.pt` while it trains.
        training: the schedule.
        train: real images.
        names: of the classes.
        runtime: where to train.
        seed: of the training.

    Returns:
        `seconds` of the training, the seconds of what a stop undid left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "training.pt"
    spec = spec_of(train.images)
    with seeded(seed, "teacher", "weights"):
        classifier = Classifier(build_network(training.architecture, spec, len(names)), spec, names)
    runtime.place(classifier)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=training.rate, momentum=0.9, weight_decay=training.weight_decay, nesterov=True)
    state: dict[str, Any] = {"epochs": 0, "seconds": 0.0}
    if record.is_file():
        state = torch.load(record, weights_only=True)
        classifier.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        restore_strides(optimizer)
    pool = ImagePool(spec, runtime.device, capacity=len(train))
    pool.append(train.images, train.labels)
    for epoch in range(state["epochs"], training.epochs):
        began = time.monotonic()
        loss = _train_epoch(classifier, optimizer, pool, training, runtime, seed, epoch)
        synchronize(runtime.device)
        seconds = state["seconds"] + time.monotonic() - began
        state = {"epochs": epoch + 1, "seconds": seconds, "weights": classifier.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, record.with_suffix(".partial"))
        record.with_suffix(".partial").rename(record)
        print(f"teacher: epoch {epoch + 1}/{training.epochs}, loss {loss:.3f}, {seconds:.0f} s", flush=True)
    if not (folder / "teacher" / DOCUMENT).is_file():
        checkpoint = folder / "teacher.safetensors"
        save_file({name: value.cpu().contiguous() for name, value in classifier.network.state_dict().items()}, checkpoint)
        import_teacher.run(checkpoint, training.architecture.to_json(), spec.to_json(), names, folder / "teacher")
    return {"seconds": state["seconds"]}


def _train_epoch(
    classifier: Classifier, optimizer: torch.optim.Optimizer, pool: ImagePool, training: Training, runtime: Runtime, seed: int, epoch: int
) -> float:
    """One pass; its mean loss."""
    steps = len(pool) // training.batch
    order, shifts = stream(seed, "teacher", "order", epoch), stream(seed, "teacher", "augment", epoch)
    total = torch.zeros((), device=runtime.device)
    labels = pool.labels
    classifier.train()
    for step, (images, chosen) in enumerate(pool.draw(training.batch, steps, order, with_indices=True)):
        for group in optimizer.param_groups:
            group["lr"] = training.rate * one_cycle((epoch * steps + step) / (training.epochs * steps), training.rise)
        view = classifier.arrange(augment(images, training.augment, shifts))
        with runtime.autocast():
            logits = classifier(view)
        loss = functional.cross_entropy(logits.float(), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    classifier.eval()
    return float(total) / steps


def one_cycle(progress: float, rise: float) -> float:
    """Share of the highest rate: straight up to 1 at `rise`, straight down to 0 at the end; progress in [0, 1]."""
    return progress / rise if progress < rise else (1 - progress) / (1 - rise)
