import copy

import pytest
import torch
from torch import nn

import toy_networks
from distillery.evaluation.cost import Cost, LatencyConfig, count_flops, measure_latency
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=3, height=8, width=6, mean=(0.5,) * 3, std=(0.5,) * 3)
QUICK = LatencyConfig(batches=(1, 4), warmup=1, repeats=3)


def make_classifier() -> Classifier:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 48, 4))
    return Classifier(network, SPEC, ("a", "b", "c", "d"))


def test_flops_of_a_known_convolution_and_linear_layer() -> None:
    convolution = 2 * (3 * 3 * 3) * 5 * (8 * 6)
    linear = 2 * (5 * 48) * 4
    assert count_flops(make_classifier()) == convolution + linear


def test_parameters_are_counted_once() -> None:
    classifier = make_classifier()
    count = (3 * 9 * 5 + 5) + 2 * 5 + (240 * 4 + 4)
    assert Cost.measure(classifier, 123, None) == Cost(parameters=count, flops=count_flops(classifier), weights_bytes=123)
    classifier.network.append(classifier.network[0])
    assert sum(p.numel() for p in classifier.parameters()) == count


def test_latency_has_one_entry_a_batch_size() -> None:
    found = Cost.measure(make_classifier(), 0, QUICK).latency
    assert [entry.batch for entry in found] == [1, 4]
    assert all(entry.repeats == 3 and entry.milliseconds > 0 and entry.threads == torch.get_num_threads() for entry in found)


def test_latency_is_the_median_after_the_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    # the clock: begin, pass of 4 ms, pass of 2 ms, pass of 500 ms; between the passes nobody asks while fewer than three are done
    ticks = iter([0.0, 0.0, 0.004, 1.0, 1.002, 2.0, 2.5])
    monkeypatch.setattr("distillery.evaluation.cost.perf_counter", lambda: next(ticks))
    calls: list[int] = []
    classifier = make_classifier()
    classifier.network[0].register_forward_hook(lambda *_: calls.append(1))
    found = measure_latency(classifier, 1, LatencyConfig(warmup=2, repeats=3))
    assert found.milliseconds == pytest.approx(4.0)
    assert len(calls) == 5


def test_a_slow_model_is_timed_three_times_at_least() -> None:
    assert measure_latency(make_classifier(), 1, LatencyConfig(warmup=1, repeats=100, seconds=1e-9)).repeats == 3


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_modes_and_buffers_alone(training: bool) -> None:
    classifier = make_classifier().train(training)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    Cost.measure(classifier, 0, QUICK)
    assert classifier.network[1].training is training
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())


def test_a_network_that_cannot_be_copied_is_measured_itself() -> None:
    classifier = Classifier(toy_networks.NoCopy(4), SPEC.model_copy(update={"width": 8}), ("a", "b", "c", "d"))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(classifier)
    assert Cost.measure(classifier, 0, QUICK).flops > 0
    assert classifier.training
