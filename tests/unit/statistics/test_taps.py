import pytest
import torch
from torch import nn

from distillery.errors import ConfigError
from distillery.statistics.taps import batchnorm_paths, tap_inputs


def make_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2))
    )


def count_hooks(module: nn.Module) -> int:
    return sum(len(child._forward_pre_hooks) + len(child._forward_hooks) for child in module.modules())


def test_only_batchnorm_with_running_statistics_counts() -> None:
    assert batchnorm_paths(make_network()) == ["1", "2.1"]


def test_a_tap_sees_the_input_with_its_graph() -> None:
    network, images = make_network().eval(), torch.rand(2, 1, 5, 5, requires_grad=True)
    with tap_inputs(network, ["1"]) as seen:
        network(images)
        torch.testing.assert_close(seen["1"], network[0](images))
        seen["1"].sum().backward()
    assert images.grad is not None
    assert seen == {}


def test_taps_are_gone_after_the_block_and_after_an_error() -> None:
    network = make_network()
    with tap_inputs(network, ["1", "2.1"]):
        assert count_hooks(network) == 2
    assert count_hooks(network) == 0
    with pytest.raises(RuntimeError), tap_inputs(network, ["1", "2.1"]):
        network(torch.rand(2, 3, 5, 5))
    assert count_hooks(network) == 0


def test_an_unknown_path_is_refused_and_leaves_no_hook() -> None:
    network = make_network()
    with pytest.raises(ConfigError, match=r"no module at '9'"), tap_inputs(network, ["1", "9"]):
        pass
    assert count_hooks(network) == 0
