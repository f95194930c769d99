"""What a network is put through before it is trusted: the orders, batches, modes and gradients that the steps use."""

import pytest
import torch
from torch import nn

import toy_networks
from distillery.errors import ConfigError
from distillery.models.catalog import Architecture
from distillery.models.trial import probe_images, settle, try_architecture
from distillery.runtime import Runtime
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.25,) * 3)
NAMES = ("a", "b", "c")
BFLOAT16 = Runtime(torch.device("cpu"), "bfloat16", 1)


def classifier(name: str, spec: ImageSpec = SPEC) -> Classifier:
    return Classifier(getattr(toy_networks, name)(), spec, NAMES)


ORDERS = {
    "Pooled": "channels_last",
    "Viewed": "contiguous",
    "ViewedBefore": "contiguous",
    "FiveDimensions": "contiguous",
    "ByMemory": "contiguous",
    "ViewedBack": "contiguous",
    "Dropping": "channels_last",
    "Blocked": "channels_last",
}


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_the_order_in_memory_is_the_fastest_that_works(name: str) -> None:
    found = settle(tried := classifier(name), name)
    assert (found.memory_format, tried.memory_format) == (ORDERS[name],) * 2
    assert {n: tuple(logits.shape) for n, logits in found.logits.items()} == {1: (1, 3), 2: (2, 3), 3: (3, 3)}
    if name != "Dropping":
        torch.testing.assert_close(found.logits[3], tried.eval()(probe_images(SPEC.shape)), atol=1e-5, rtol=0)


REFUSED = {
    "Squeezed": r"gives \(3,\) for 1 image of 3x8x8.*flatten\(1\) instead of squeeze",
    "FixedBatch": r"fails on images of 3x8x8 in a batch of 1, though not of 2 \(RuntimeError: .*\): make it independent",
    "TooDeep": r"fails on images of 3x8x8 \(RuntimeError: Calculated padded input size.*\): check channels, .* float32\.$",
    "Classes": "gives logits of torch.int64, not of floating point",
    "Full": r"for want of memory \(OutOfMemoryError: CUDA out of memory\. Tried.*\): lower the batch size",
    "Sparse": r"gives sparse_coo logits on cpu for images on cpu: return dense logits",
    "Elsewhere": r"gives strided logits on meta for images on cpu: return dense logits",
    "Masked": r"logits that are not finite: .*masked with infinity",
    "Silent": r"fails on images of 3x8x8 \(Unprintable\): check",
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_run_is_one_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[name]) as caught:
        settle(classifier(name), name)
    assert "\n" not in str(caught.value)


def test_an_order_to_stop_is_no_failure_of_the_network() -> None:
    with pytest.raises(SystemExit):
        settle(classifier("Stopped"), "mine")


STUDENTS = {
    "Auxiliary": r"gives Outputs for 2 images of 3x8x8 in train mode, not logits of \(2, 3\).*aux_logits=false",
    "TooDeep": r"fails on images of 3x8x8 \(RuntimeError",
    "TrainsWrong": r"fails on images of 3x8x8 in train mode \(RuntimeError",
    "CutInTraining": "cuts its logits off from its weights in train mode",
    "Softmaxed": "gives probabilities, not logits",
    "HiddenParts": r"^The parts and weights of toy_networks:HiddenParts cannot be listed \(Unprintable\)",
    "NoWeights": r"^The parts and weights of toy_networks:NoWeights cannot be listed \(RuntimeError: no parameters\)",
    "NoState": r"^The parts and weights of toy_networks:NoState cannot be listed \(Unprintable\)",
    "NoModes": r"cannot change between train and eval mode \(Unprintable\)",
    "NoMoves": r"cannot be put on cpu in eval mode \(Unprintable\)",
    "GradientsOffInForward": "cuts its logits off from its weights",
    "WrittenInPlace": r"fails as gradients go back to its (weights|images) \(RuntimeError: one of the variables needed",
}


@pytest.mark.parametrize("name", sorted(STUDENTS))
def test_a_student_is_tried_in_train_mode(name: str) -> None:
    with pytest.raises(ConfigError, match=STUDENTS[name]) as caught:
        try_architecture(Architecture(name=f"toy_networks:{name}"), SPEC, 3)
    assert "\n" not in str(caught.value)


def test_what_code_of_others_sets_for_the_process_is_undone() -> None:
    assert try_architecture(Architecture(name="toy_networks:GradientsOff"), SPEC, 3) == "channels_last"
    settle(classifier("DoubleInForward"), "mine")
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert settle(classifier("GradientsOffInForward"), "mine").blocked
    assert torch.is_grad_enabled()


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_a_student_that_only_trains_by_backward_is_trained() -> None:
    assert try_architecture(Architecture(name="toy_networks:Reentrant"), SPEC, 3) == "channels_last"


@pytest.mark.parametrize("name", ["Pooled", "Viewed", "ViewedBack"])
def test_a_student_gets_its_order(name: str) -> None:
    assert try_architecture(Architecture(name=f"toy_networks:{name}"), SPEC, 3) == ORDERS[name]


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1", "vgg8_bn", "lenet5", "mobilenet_v2"])
def test_students_of_ours_take_any_size(name: str) -> None:
    for size in (1, 8):
        assert try_architecture(Architecture(name=name), SPEC.model_copy(update={"height": size, "width": size}), 3) == "channels_last"


def test_nothing_of_the_classifier_moves_but_the_order() -> None:
    tried = classifier("Counting").train()
    tried.network.norm.eval()
    before = {name: value.clone() for name, value in tried.state_dict().items()}
    stream = torch.get_rng_state()
    found = settle(tried, "Counting", train=True)
    assert found.written == ()
    assert all(torch.equal(value, before[name]) for name, value in tried.state_dict().items())
    assert (tried.training, tried.network.norm.training) == (True, False)
    assert all(weight.grad is None and weight.requires_grad for weight in tried.parameters())
    assert torch.equal(torch.get_rng_state(), stream)


def test_a_forward_pass_that_writes_or_draws_is_told() -> None:
    assert settle(classifier("Counting"), "Counting").written == ("network.passes",)
    assert settle(classifier("Dropping"), "Dropping").random
    plain = settle(classifier("Pooled"), "Pooled")
    assert (plain.written, plain.random, plain.blocked, plain.bfloat16) == ((), False, "", "")


BLOCKED = {
    "Blocked": "cuts its logits off",
    "Inference": "cuts its logits off",
    "DetachedInPlace": "no gradient comes through",
    "Rounded": "no gradient comes through",
    "WrittenInPlace": "fails as gradients go back to its images",
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", sorted(BLOCKED))
def test_blocked_gradients_are_found(name: str, frozen: bool) -> None:
    tried = classifier(name)
    blocked = settle(tried.freeze() if frozen else tried, name).blocked
    assert BLOCKED[name] in blocked or (frozen and blocked.startswith("it cuts"))


def test_autocast_is_tried_where_the_steps_use_it() -> None:
    assert settle(classifier("Pooled"), "Pooled", BFLOAT16).bfloat16 == ""
    assert settle(classifier("Float32Only"), "mine").bfloat16 == ""
    assert "precision: float32" in settle(classifier("Float32Only"), "mine", BFLOAT16).bfloat16


def test_images_of_one_channel_lie_as_they_should() -> None:
    """Their strides may say channels-last where torch calls them contiguous, and a convolution believes the strides."""
    spec = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))
    tried = Classifier(toy_networks.Viewed(channels=1), spec, NAMES)
    settle(tried, "Viewed")
    images = torch.rand(2, 1, 8, 8).as_strided((2, 1, 8, 8), (64, 1, 8, 1))
    assert images.is_contiguous()
    assert tried(images).shape == (2, 3)


def test_weights_of_one_channel_lie_as_they_should() -> None:
    tried = Classifier(toy_networks.Viewed(channels=1), ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,)), NAMES)
    weight = tried.network.conv.weight
    weight.data = weight.data.as_strided(weight.shape, (9, 1, 3, 1))
    tried.memory_format = "contiguous"
    assert BFLOAT16.place(tried).network.conv.weight.stride() == (9, 9, 3, 1)


def test_logits_of_a_network_under_inference_mode_serve_a_loss() -> None:
    teacher, student = classifier("Inference"), nn.Linear(3, 3)
    logits = teacher(torch.rand(2, 3, 8, 8))
    (student(torch.rand(2, 3)) * logits).sum().backward()
    assert student.weight.grad is not None


def test_a_network_that_answers_each_pixel_is_refused_by_its_task() -> None:
    dense = Classifier(nn.Conv2d(3, 3, 1), SPEC, NAMES)
    with pytest.raises(ConfigError, match=r"gives \(2, 3, 8, 8\) .* a class for each pixel: what is distilled are classifiers.*\(2, 3\)"):
        settle(dense, "mine")
