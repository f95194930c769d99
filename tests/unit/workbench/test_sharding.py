"""A shard's budget: the teacher takes its part of it, beside the generators."""

import pytest
import torch
from torch import nn

from distillery.errors import ConfigError
from distillery.models.bundle import VerifiedBundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance
from distillery.recipes.loader import load_recipe
from distillery.types import Classifier, ImageSpec
from distillery.workbench.sharding import GIB, Sharding, cut_ensemble

SPEC = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> VerifiedBundle:
    """Heavier than several generators."""
    folder = tmp_path_factory.mktemp("teacher")
    architecture = Architecture(name="wrn_10_2")
    classifier = Classifier(build_network(architecture, SPEC, 6), SPEC, tuple("abcdef"))
    save_classifier(folder, classifier, architecture, Provenance(code_version="test"))
    return VerifiedBundle(folder)


def cut(teacher: VerifiedBundle, memory: int) -> Sharding:
    changes = {"generator": {"name": "conditional", "latent": 2, "width": 2, "condition": "one_hot"}, "batch": 2, "steps_per_round": 1}
    recipe = load_recipe("ls_gdfd/digits-ensemble", {"synthesis.config": changes, "synthesis.shard_memory_gib": memory / GIB})
    found = cut_ensemble(recipe, teacher, {}, torch.device("cpu"))
    assert found is not None
    return found


def weighs(network: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())


@pytest.mark.parametrize("held", [1, 2, 3])
def test_generators_get_what_the_teacher_leaves(teacher: VerifiedBundle, held: int) -> None:
    whole = cut(teacher, GIB)
    assert whole.shared >= weighs(teacher.classifier.network) > whole.memory.of(4) - whole.memory.of(1), "or nobody would feel its weight"
    found = cut(teacher, whole.shared + whole.memory.of(held))
    assert (len(found.largest), found.needed) == (held, found.budget)
    if held > 1:
        assert len(cut(teacher, found.budget - 1).largest) == held - 1


def test_one_generator_beside_its_teacher_is_the_least(teacher: VerifiedBundle) -> None:
    whole = cut(teacher, GIB)
    with pytest.raises(ConfigError, match="One generator takes about .* with the teacher, more than a shard may"):
        cut(teacher, whole.shared + whole.memory.of(1) - 1)
