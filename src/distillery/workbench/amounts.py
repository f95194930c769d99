"""Numbers of images that a plan wonders at, and lets be: too few for the classes, or too many for the store."""

import logging
import math

from distillery.models.bundle import BundleInfo
from distillery.recipes.schema import DistillationRecipe, Recipe
from distillery.recipes.workload import workload_of
from distillery.reporting.words import size
from distillery.storage import Store

logger = logging.getLogger(__name__)


def warn_space(recipe: Recipe, info: BundleInfo, store: Store, more: int = 0) -> None:
    """Say so where a set's pixels alone are more than what is free in the store, as far as that can be known.

    Args:
        recipe: resolved.
        info: of the teacher.
        store: that will hold the set.
        more: images that the pool begins with.
    """
    if not isinstance(recipe, DistillationRecipe):
        return
    needed, free = (workload_of(recipe).kept + more) * math.prod(info.spec.shape), store.free_space()
    if free is not None and needed > free:
        logger.warning(
            "The run's images take %s, and %s are free in the store %r: free some, choose another store, or make fewer images.",
            size(needed),
            size(free),
            store.uri,
        )


def warn_quotas(recipe: Recipe, info: BundleInfo) -> None:
    """Say so where a set has fewer images than the teacher has classes: some get none."""
    if isinstance(recipe, DistillationRecipe) and recipe.method.coupling == "offline" and recipe.set.size < info.num_classes:
        logger.warning(
            "set.size = %d leaves %d of the teacher's %d classes without an image: give a multiple of their number.",
            recipe.set.size,
            info.num_classes - recipe.set.size,
            info.num_classes,
        )
