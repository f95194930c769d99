import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distillery.errors import ConfigError
from distillery.statistics.taps import tap_inputs, tap_outputs, visit_key, visited_path
from fakes import taps_left


def make_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2))
    )


def test_a_tap_sees_the_input_with_its_graph() -> None:
    network, images = make_network().eval(), torch.rand(2, 1, 5, 5, requires_grad=True)
    with tap_inputs(network, ["1"]) as seen:
        network(images)
        torch.testing.assert_close(seen["1"], network[0](images))
        seen["1"].sum().backward()
    assert images.grad is not None
    assert seen.keys == []


def test_taps_are_gone_after_the_block_and_after_an_error() -> None:
    network = make_network()
    with tap_inputs(network, ["1", "2.1"]):
        assert taps_left(network) == 3  # and one that sees where a pass begins
    assert taps_left(network) == 0
    with pytest.raises(RuntimeError), tap_inputs(network, ["1", "2.1"]):
        network(torch.rand(2, 3, 5, 5))
    assert taps_left(network) == 0


def test_an_unknown_path_is_refused_and_leaves_no_tap() -> None:
    network = make_network()
    with pytest.raises(ConfigError, match=r"no module at '9'"), tap_inputs(network, ["1", "9"]):
        pass
    assert taps_left(network) == 0


def test_a_forward_of_the_instance_is_put_back() -> None:
    network = make_network()
    own = network[1].forward
    network[1].forward = lambda value: own(2 * value)  # as some libraries wrap what they are given
    wrapped = network[1].forward
    with tap_inputs(network, ["1"]) as seen:
        network(images := torch.rand(2, 1, 5, 5))
        torch.testing.assert_close(seen["1"], network[0](images))
    assert network[1].__dict__["forward"] is wrapped


class Caller(nn.Module):
    """Calls one layer in every way that Python has."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.how = how
        if how == "altered":
            self.norm.register_forward_pre_hook(lambda _, inputs: (inputs[0] + 1,))

    def forward(self, images: Tensor) -> Tensor:
        if self.how == "keyword":
            return self.norm(input=images)
        if self.how == "forward":
            return self.norm.forward(images)
        if self.how == "checkpoint":
            found = checkpoint(self.norm, images, use_reentrant=False)
            assert isinstance(found, Tensor)
            return found
        return self.norm(self.norm(images)) if self.how == "twice" else self.norm(images)


@pytest.mark.parametrize("how", ["plain", "keyword", "forward", "checkpoint", "altered", "twice"])
def test_a_tap_sees_every_way_to_call_a_module(how: str) -> None:
    network, images = Caller(how).eval(), torch.rand(2, 1, 5, 5, requires_grad=True)
    with tap_inputs(network, ["norm"]) as seen:
        for _ in range(2):  # filled anew by the second pass
            network(images)
        assert torch.equal(seen["norm"], images + 1 if how == "altered" else images)
        assert seen.keys == seen.visits("norm") == (["norm", "norm..2"] if how == "twice" else ["norm"])
        (gradient,) = torch.autograd.grad(seen["norm"].square().sum(), images)
    torch.testing.assert_close(gradient, 2 * (images + 1 if how == "altered" else images))


def test_a_module_of_two_names_is_tapped_under_both() -> None:
    norm = nn.BatchNorm2d(1)
    network = nn.Sequential(norm, nn.ReLU(), norm).eval()
    with tap_inputs(network, ["0", "2"]) as seen:
        network(torch.rand(2, 1, 5, 5))
        assert len(seen.visits("0")) == len(seen.visits("2")) == 2
    assert taps_left(network) == 0


def test_an_input_that_was_overwritten_since_is_not_given_out() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, images: Tensor) -> Tensor:
            value = images * 2
            return self.norm(value) + value.relu_()

    network = Overwriting().eval()
    with torch.no_grad(), tap_inputs(network, ["norm"]) as seen:
        network(torch.rand(2, 1, 5, 5))
        assert seen.find("norm") is None
        with pytest.raises(ConfigError, match=r"^The layer 'norm' had no input that can be read .*[.]$"):
            seen["norm"]
        with pytest.raises(ConfigError, match=r"^The layer 'norm[.][.]2' was not visited .*[.]$"):
            seen["norm..2"]


@pytest.mark.parametrize("how", ["plain", "keyword", "forward", "checkpoint", "altered", "twice"])
def test_an_output_is_seen_however_the_module_is_called(how: str) -> None:
    network, images = Caller(how), torch.rand(2, 1, 5, 5, requires_grad=True)
    network.norm.register_forward_hook(lambda module, args, result: 3 * result)  # what flows on is what a hook has made of it
    with tap_outputs(network, ["norm"]) as seen:
        result = network(images)
        assert seen.keys == (["norm", "norm..2"] if how == "twice" else ["norm"])
        assert seen[seen.keys[-1]] is result or how == "checkpoint"
        assert torch.equal(seen[seen.keys[-1]], result)
        (gradient,) = torch.autograd.grad(seen["norm"].square().sum(), images)
        assert gradient.any()
    assert taps_left(network) == 0
    assert len(network.norm._forward_hooks) == 1


def test_an_output_is_the_first_tensor_of_several() -> None:
    class Several(nn.Module):
        def forward(self, value: Tensor) -> object:
            return self.wrap(value + 1)

    network = nn.Sequential(Several())
    for wrap in (lambda value: (None, value, value + 1), lambda value: {"mask": 3, "features": value}, lambda value: [value]):
        network[0].wrap = wrap
        with tap_outputs(network, ["0"]) as seen:
            network(value := torch.rand(2))
            assert torch.equal(seen["0"], value + 1)
    network[0].wrap = lambda value: {1, 2}
    with tap_outputs(network, ["0"]) as seen:
        network(torch.rand(2))
        assert seen.keys == ["0"]
        assert seen.find("0") is None


def test_an_output_that_the_next_layer_overwrites_is_not_given_out() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.ReLU(inplace=True)).eval()
    with tap_outputs(network, ["0", "1"]) as seen:
        result = network(torch.rand(2, 1, 5, 5))
        assert torch.equal(seen["1"], result)
        with pytest.raises(ConfigError, match=r"^The layer '0' had no output that can be read .*[.]$"):
            seen["0"]


def test_inputs_and_outputs_of_one_module_are_read_in_one_pass() -> None:
    network = Caller("keyword").eval()
    with tap_outputs(network, ["norm"]) as left, tap_inputs(network, ["norm"]) as entered:
        result = network(images := torch.rand(2, 1, 5, 5))
        assert torch.equal(entered["norm"], images)
        assert torch.equal(left["norm"], result)
    assert taps_left(network) == 0


def test_an_unknown_path_names_a_near_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'norm'"), tap_outputs(Caller("plain"), ["nrom"]):
        pass


def test_a_script_is_seen_from_outside_and_its_parts_are_not() -> None:
    with warnings.catch_warnings():  # torch is giving scripts up, users have not
        warnings.simplefilter("ignore")
        part = torch.jit.script(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    network = nn.Sequential(part, nn.Flatten())
    with tap_outputs(network, ["0", "0.1"]) as seen:
        result = network(torch.rand(2, 1, 5, 5))
        assert torch.equal(seen["0"].flatten(1), result)
        assert seen.visits("0.1") == []


def test_a_visit_is_named_by_its_path() -> None:
    assert [visit_key("a.b", number) for number in (1, 2, 11)] == ["a.b", "a.b..2", "a.b..11"]
    assert {visited_path(visit_key("a.b", number)) for number in (1, 2, 11)} == {"a.b"}
