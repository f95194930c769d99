"""scikit-learn's digits, and a teacher trained on them: the one place of the house that sees real training data.

Shared by `make demo` and `make seeds`. Everything after the teacher works from its weights alone; a test patches the loader of
scikit-learn to raise and runs the distillation steps.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from distillery.config import Config
from distillery.data.real import LabelledImages
from distillery.extras import need
from distillery.models.catalog import Architecture, build_network
from distillery.runtime import Runtime
from distillery.seeding import seeded, stream
from distillery.steps import import_teacher
from distillery.types import Classifier, ImageSpec

SIDE = 16
TEST_IMAGES = 450
SPLIT_SEED = 0
CLASS_NAMES = tuple(str(digit) for digit in range(10))
TEACHER = Architecture(name="wrn_16_2")


@dataclass(frozen=True)
class Digits:
    """The fixed split: `train` is for the teacher only, `test` for `evaluate` only."""

    train: LabelledImages
    test: LabelledImages


class TeacherTraining(Config):
    """How the teacher is trained: SGD with a one-cycle rate, on slightly turned, scaled, sheared and shifted digits."""

    epochs: int = Field(default=12, ge=1)
    batch: int = Field(default=64, ge=2)
    rate: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    degrees: float = Field(default=12.0, ge=0)
    scale: float = Field(default=0.12, ge=0, lt=1)
    shear: float = Field(default=0.15, ge=0)
    shift: float = Field(default=1.5, ge=0)


def load_split() -> Digits:
    """1,797 digits at 16 x 16, uint8, split once and for all into 1,347 to train on and 450 to test on, stratified."""
    need("demo", "A teacher on real digits")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    small = torch.from_numpy(raw.images).to(torch.float32).unsqueeze(1)
    large = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    images = (large * (255 / 16)).round().to(torch.uint8)
    labels = torch.from_numpy(raw.target).to(torch.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=TEST_IMAGES, stratify=raw.target, random_state=SPLIT_SEED)
    return Digits(LabelledImages(images[train], labels[train]), LabelledImages(images[test], labels[test]))


def spec_of(images: Tensor) -> ImageSpec:
    """Shape and normalisation constants of uint8 images (N, C, H, W), rounded to four digits."""
    pixels = images.to(torch.float64) / 255
    mean, std = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3))
    channels, height, width = images.shape[1:]
    return ImageSpec(
        channels=channels,
        height=height,
        width=width,
        mean=tuple(round(float(value), 4) for value in mean),
        std=tuple(round(float(value), 4) for value in std),
    )


def save_npz(path: Path, data: LabelledImages) -> Path:
    """Write the arrays `images` and `labels` that `evaluate` reads."""
    np.savez(path, images=data.images.numpy(), labels=data.labels.numpy())
    return path


def train_teacher(train: LabelledImages, config: TeacherTraining, runtime: Runtime, seed: int = 0) -> nn.Module:
    """Train the teacher's network on real, labelled images.

    Args:
        train: images (N, C, H, W) uint8 and their labels.
        config: the schedule.
        runtime: where to train; float32 whatever its precision says, so that every machine gets an equal teacher.
        seed: of the initial weights, the order and the augmentation.

    Returns:
        The bare network in eval mode; its normalisation is `spec_of(train.images)`.
    """
    spec = spec_of(train.images)
    with seeded(seed, "teacher", "weights"):
        classifier = Classifier(build_network(TEACHER, spec, len(CLASS_NAMES)), spec, CLASS_NAMES)
    runtime.place(classifier).train()
    images, labels = train.images.to(runtime.device).float() / 255, train.labels.to(runtime.device)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=config.rate, momentum=0.9, weight_decay=config.weight_decay, nesterov=True)
    batches = len(images) // config.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.rate, total_steps=config.epochs * batches, pct_start=0.2)
    draws = stream(seed, "teacher", "draws")
    for _ in range(config.epochs):
        order = torch.randperm(len(images), generator=draws).to(runtime.device)
        for chosen in order[: batches * config.batch].view(batches, config.batch):
            logits = classifier(turn(images[chosen], config, draws))
            loss = functional.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.network.eval()


def turn(images: Tensor, config: TeacherTraining, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W), each under a small random rotation, scaling, shear and shift of its own."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle, scale = uniform(math.radians(config.degrees)), 1 + uniform(config.scale)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    across, down = (uniform(config.shift * 2 / images.shape[3]), uniform(config.shift * 2 / images.shape[2]))
    rows = (torch.stack([cosine, uniform(config.shear) - sine, across], dim=1), torch.stack([sine, cosine, down], dim=1))
    grid = functional.affine_grid(torch.stack(rows, dim=1).to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def make_teacher(folder: Path, config: TeacherTraining, runtime: Runtime, seed: int = 0) -> dict[str, Any]:
    """Train the teacher and take it in as anybody's checkpoint is; the training images stay in memory and end with this call.

    Args:
        folder: gets `teacher.safetensors`, the bundle `teacher/`, and `test.npz` with the 450 test images.
        config: the schedule.
        runtime: where to train.
        seed: of the training.

    Returns:
        What `import_teacher` returns: `top1` on the test images among it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_split()
    data = save_npz(folder / "test.npz", digits.test)
    spec = spec_of(digits.train.images)
    network = train_teacher(digits.train, config, runtime, seed)
    checkpoint = folder / "teacher.safetensors"
    save_file({name: value.cpu().contiguous() for name, value in network.state_dict().items()}, checkpoint)
    return import_teacher.run(checkpoint, TEACHER.to_json(), spec.to_json(), CLASS_NAMES, folder / "teacher", str(data))
