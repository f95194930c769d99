"""A student taught on noise, by the same plan and the same teacher: what a data-free method has to beat."""

from pathlib import Path

import torch
from torch import Tensor

from distillery.data.pool import ImagePool, quantize
from distillery.engine.feeds import PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.models.bundle import load_classifier
from distillery.recipes.schema import Recipe
from distillery.recipes.workload import workload_of
from distillery.runtime import Runtime
from distillery.seeding import stream
from distillery.types import Classifier, ImageSpec
from distillery.workbench.assembly import build_student


def noise_images(spec: ImageSpec, num: int, seed: int) -> Tensor:
    """Noise of every image's shape: half uniform, half Gaussian with the mean and deviation of real images; (num, C, H, W) uint8."""
    draws = stream(seed, "noise")
    uniform = torch.rand(num // 2, *spec.shape, generator=draws)
    gaussian = torch.randn(num - num // 2, *spec.shape, generator=draws)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return quantize(torch.cat([uniform, gaussian * std + mean]))


def train_on_noise(teacher_folder: Path, recipe: Recipe, runtime: Runtime, seed: int = 0) -> Classifier:
    """Train a recipe's student on as many noise images as the recipe synthesizes, for as many steps.

    Args:
        teacher_folder: the teacher's bundle.
        recipe: of either pipeline; its student plan and its number of images are taken.
        runtime: where to train.
        seed: of the noise, the student's weights and the order.

    Returns:
        The student after the last epoch.
    """
    teacher = runtime.place(load_classifier(teacher_folder).freeze())
    images = noise_images(teacher.spec, workload_of(recipe).images, seed)
    pool = ImagePool(teacher.spec, runtime.device, capacity=len(images))
    pool.append(images)
    stages = tuple(stage.sized(len(images)) for stage in recipe.student.stages)
    student = build_student(recipe.student.architecture, teacher, runtime, seed)
    trainer = StudentTrainer(stages, teacher, student, runtime, seed)
    trainer.train(sum(stage.epochs * stage.steps_per_epoch for stage in stages), PoolFeed(pool))
    return student
