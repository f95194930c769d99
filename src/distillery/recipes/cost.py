"""What a recipe costs, in numbers that no hardware changes: images and student steps."""

from dataclasses import dataclass

from distillery.recipes.schema import Recipe


@dataclass(frozen=True)
class Cost:
    """What a recipe makes and trains.

    Attributes:
        images: images synthesized for the student, held-out ones included; raw ones dropped by quotas are not counted.
        student_steps: optimiser steps of the student, over all stages.
    """

    images: int
    student_steps: int


def estimate_cost(recipe: Recipe) -> Cost:
    """Images and student steps of a resolved recipe.

    Online, a round makes one batch of images, and the student rests during the method's warm-up. Offline, the images are the set's, and
    a stage without steps of its own passes once over the set's training part in each epoch. A class's held-out share is rounded, so
    the offline steps may be off by one an epoch.
    """
    synthesis = recipe.synthesis
    if recipe.method.coupling == "online":
        images = synthesis.rounds * int(synthesis.config.get("batch", 0))
        return Cost(images, recipe.trained_rounds * synthesis.student_steps_per_round)
    training = recipe.set.size - round(recipe.set.size * recipe.set.holdout)
    stages = [stage.sized(training) for stage in recipe.student.stages]
    return Cost(recipe.set.size, sum(stage.epochs * stage.steps_per_epoch for stage in stages))
