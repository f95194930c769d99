"""The work that a recipe asks for, in numbers that no hardware changes: images and student steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from distillery.engine.feeds import own_images
from distillery.recipes.class_statistics import StatisticsRecipe
from distillery.recipes.schema import DistillationRecipe, Recipe
from distillery.students.plan import StageConfig


@dataclass(frozen=True)
class Workload:
    """What a recipe makes and trains.

    Attributes:
        images: images synthesized for the student, held-out ones included; raw ones dropped by quotas are not counted.
        sample: of them, in the set; 0 means all.
        student_steps: optimiser steps of the student, over all stages.
    """

    images: int
    student_steps: int
    sample: int = 0

    @property
    def kept(self) -> int:
        """Images of the set."""
        return min(self.sample or self.images, self.images)


def workload_of(recipe: Recipe) -> Workload:
    """Images and student steps of a resolved recipe; of one that synthesizes nothing, no images, and the steps of stages that name them.

    Statistics take as many images as the classes that the recipe expects ask for.

    Online, a turn makes one batch of images, and the student rests during the method's warm-up. Of images that it is never shown, those
    of the warm-up under `feed: round` and all of a turn's own under `fresh`, only the held-out share is kept. Offline, the images are
    the set's, and a stage without steps of its own passes once over the set's training part in each epoch. A class's held-out share is
    rounded, so the offline steps may be off by one an epoch.
    """
    if isinstance(recipe, StatisticsRecipe):
        return Workload(recipe.per_class * recipe.expects.classes * recipe.inverts, 0)
    if not isinstance(recipe, DistillationRecipe):
        return Workload(0, sum(stage.epochs * stage.steps_per_epoch for stage in recipe.student.stages))
    synthesis = recipe.synthesis
    if recipe.method.coupling == "online":
        batch, steps = recipe.settings.images_per_turn, recipe.online_steps
        shown = {"pool": recipe.turns, "round": recipe.trained_turns}.get(synthesis.feed, 0)
        drawn = _drawn(recipe.student.stages, steps) if synthesis.feed == "fresh" else 0
        images = shown * batch + round((recipe.turns - shown) * batch * recipe.set.holdout) + drawn
        return Workload(images, steps, 0 if synthesis.record == "all" else synthesis.record)
    training = recipe.set.size - round(recipe.set.size * recipe.set.holdout)
    stages = [stage.sized(training) for stage in recipe.student.stages]
    return Workload(recipe.set.size, sum(stage.epochs * stage.steps_per_epoch for stage in stages))


def _drawn(stages: Sequence[StageConfig], steps: int) -> int:
    """Synthetic images of that many steps; the last stage goes on past its end."""
    images = 0
    for stage in stages[:-1]:
        taken = min(steps, stage.epochs * stage.steps_per_epoch)
        images, steps = images + taken * own_images(stage.batch, stage.ood_share), steps - taken
    return images + steps * own_images(stages[-1].batch, stages[-1].ood_share)
