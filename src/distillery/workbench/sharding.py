"""How an ensemble is cut into shards: as many generators trained as one network as fit a memory budget, told before the work begins."""

import logging
import math
import os
from dataclasses import dataclass

import torch
from torch import nn

from distillery.engine.progress import Progress
from distillery.errors import ConfigError
from distillery.grammar import counted
from distillery.models.bundle import VerifiedBundle
from distillery.placement.amounts import read_memory
from distillery.placement.profiles import Placement
from distillery.recipes.schema import DistillationRecipe, Recipe
from distillery.runtime import memory_here
from distillery.storage.workspace import workspace
from distillery.synthesis.config import ConditionalConfig
from distillery.synthesis.share import ALONE, Share
from distillery.synthesis.stack_memory import StackMemory, stack_memory

logger = logging.getLogger(__name__)

GIB = 2**30
SHARE_OF_MACHINE = 0.6
"""Of a machine's memory that a shard may take where the recipe says nothing: the rest is the teacher's, the data's and other programs'."""
UNSEEN_ACCELERATOR = 12 * GIB
"""Where a cluster's accelerators train, which the plan's own machine has not: what one of 16 GiB leaves."""


@dataclass(frozen=True)
class Sharding:
    """How an ensemble is cut.

    Attributes:
        shards: which generators each holds.
        memory: what one generator takes.
        shared: bytes that a shard takes whatever it holds: the teacher's weights.
        budget: bytes that a shard may take.
        origin: where the budget comes from, in words.
    """

    shards: tuple[Share, ...]
    memory: StackMemory
    shared: int
    budget: int
    origin: str

    @property
    def largest(self) -> Share:
        """The shard that holds most generators."""
        return max(self.shards, key=len)

    @property
    def needed(self) -> int:
        """Bytes that the largest shard takes."""
        return self.shared + self.memory.of(len(self.largest))

    @property
    def times_largest(self) -> float:
        """What all shards are worth, in shards as large as that one."""
        return self.shards[-1].total / len(self.largest)

    def sentence(self) -> str:
        """What will be done, and why."""
        total, largest = self.shards[-1].total, len(self.largest)
        shards = counted(len(self.shards), "shard") + f" of at most {largest} each" * (len(self.shards) > 1)
        return (
            f"{total} generators in {shards}: about {self.memory.of(1) / GIB:.2g} GiB for one, {self.needed / GIB:.2g} GiB a shard, "
            f"within {self.budget / GIB:.3g} GiB ({self.origin})."
        )


def cut_ensemble(recipe: Recipe, teacher: VerifiedBundle, placement: Placement | None, device: torch.device) -> Sharding | None:
    """Cut the generators of a recipe into shards of about equal size, as few as fit the budget; None where it trains one alone.

    Args:
        recipe: resolved.
        teacher: its bundle.
        placement: what the run form chose of a cluster's nodes; None where it says nothing of them.
        device: that this machine would train on.

    Raises:
        ConfigError: more generators than classes, or one generator that is over the budget.
    """
    if not isinstance(recipe, DistillationRecipe):
        return None
    total = recipe.generators(teacher.info.num_classes)
    if recipe.synthesis.generators == 1:
        return None
    settings = recipe.settings
    assert isinstance(settings, ConditionalConfig), "an ensemble is of conditional generators"
    memory, shared = stack_memory(settings, teacher.classifier, total, device), _size(teacher.classifier)
    budget, origin = _budget(recipe, placement, device)
    most = memory.most(budget - shared)
    if most < 1:
        raise ConfigError(
            f"One generator takes about {(shared + memory.of(1)) / GIB:.2g} GiB with the teacher, more than a shard may: "
            f"{budget / GIB:.2g} GiB, {origin}; raise synthesis.shard_memory_gib, or lower synthesis.config.batch or the width of "
            "synthesis.config.generator."
        )
    number = -(-total // most)
    cuts = [total * part // number for part in range(number + 1)]
    shards = tuple(Share(first, last, total) for first, last in zip(cuts, cuts[1:], strict=False))
    return Sharding(shards, memory, shared, budget, origin)


def cut(recipe: Recipe, teacher: VerifiedBundle, placement: Placement | None, device: torch.device) -> tuple[Share, ...]:
    """The shards of a run, one of all classes where it trains one generator; says how they were cut, and shows it to whoever watches."""
    sharding = cut_ensemble(recipe, teacher, placement, device)
    if sharding is None:
        return (ALONE,)
    logger.info("plan: %s", sharding.sentence())
    numbers = {"generators": float(sharding.shards[-1].total), "shards": float(len(sharding.shards)), "GiB a shard": sharding.needed / GIB}
    Progress(workspace() / "progress", "plan").write("cut the ensemble", 1, 1, numbers)
    return sharding.shards


def _size(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def _budget(recipe: DistillationRecipe, placement: Placement | None, device: torch.device) -> tuple[int, str]:
    """Bytes that a shard may take, and where that comes from."""
    if given := recipe.synthesis.shard_memory_gib:
        return math.floor(given * GIB), "synthesis.shard_memory_gib"
    if os.environ.get("KUBERNETES_SERVICE_HOST") and placement:
        if placement.accelerated:
            return UNSEEN_ACCELERATOR, "what an accelerator of 16 GiB leaves, since the plan sees none; synthesis.shard_memory_gib says it"
        limit = read_memory(placement.pools.large.memory_limit)
        return int(limit * SHARE_OF_MACHINE), f"{SHARE_OF_MACHINE:.0%} of large.memory_limit of the profile {placement.profile}"
    return int(memory_here(device) * SHARE_OF_MACHINE), f"{SHARE_OF_MACHINE:.0%} of the memory of {device} here"
