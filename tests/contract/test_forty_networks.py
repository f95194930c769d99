"""Forty networks as people build them, through every stage: right in all of them, or refused in one sentence by the first that sees it."""

import copy
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import forty_networks
import toy_networks
from distillery.data.pool import ImagePool, dequantize
from distillery.engine.feeds import PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.errors import DistilleryError
from distillery.evaluation.predict import predict
from distillery.methods.catalog import METHODS
from distillery.models.bundle import load_classifier, read_bundle
from distillery.models.catalog import Architecture
from distillery.models.export import export_student, random_images
from distillery.models.trial import try_architecture
from distillery.statistics.extract import global_moments
from distillery.statistics.layers import find_layers
from distillery.steps.import_teacher import run as import_teacher
from distillery.students.plan import StageConfig
from distillery.synthesis.protocol import Ingredients
from distillery.types import Classifier, ImageSpec
from distillery.workbench.assembly import build_student
from fakes import CPU
from methods import tiny

SPEC = ImageSpec(channels=3, height=8, width=8, mean=(0.4, 0.5, 0.6), std=(0.25, 0.3, 0.2))
NAMES = ("a", "b", "c")
BATCH = 6
NORM = ("norm",)


@dataclass(frozen=True)
class Toy:
    """What one network is expected to do.

    Attributes:
        name: in `forty_networks`, or `toy_networks`.
        visits: of its layers with moments, without the classifier's prefix.
        left_out: layers that take part and are named as having no moments to match.
        order: of its images in memory.
        imported: the sentence that refuses it as a teacher.
        planned: the sentence that refuses it as a student.
        exported: the sentence that refuses to export it at all.
        as_onnx: the sentence that refuses to export it as ONNX.
        close: bound of differences from the plain network, of the largest logit.
        random: whether it draws random numbers as it trains.
    """

    name: str
    visits: tuple[str, ...] = NORM
    left_out: tuple[str, ...] = ()
    order: str = "channels_last"
    imported: str = ""
    planned: str = ""
    exported: str = ""
    as_onnx: str = ""
    close: float = 1e-5
    random: bool = False

    @property
    def module(self) -> Any:
        return forty_networks if hasattr(forty_networks, self.name) else toy_networks

    @property
    def architecture(self) -> Architecture:
        return Architecture(name=f"{self.module.__name__}:{self.name}")


TOYS = (
    Toy("batch_norm"),
    Toy("sync_batch_norm"),
    Toy("frozen_batch_norm"),
    Toy("own_batch_norm"),
    Toy("own_statistics"),
    Toy("group_norm", ()),
    Toy("layer_norm", ()),
    Toy("instance_norm", ()),
    Toy("tracked_instance_norm", (), ("norm",)),
    Toy("no_norm", ()),
    Toy("untracked_norm", imported=r"beside it in the batch \(the layer 'norm', a BatchNorm2d without running statistics, mixes them\)"),
    Toy("VectorNorm", NORM, ("vector",)),
    Toy("Viewed", order="contiguous"),
    Toy("Reshaped"),
    Toy("Strided", order="contiguous", exported=r"cannot be exported \(UserError"),
    Toy("ChannelsLastOnly", imported=r"fails on images of 3x8x8 \(RuntimeError: view size is not compatible"),
    Toy("ConvolutionHead"),
    Toy("TwoBranches", ("norm", "branches.wide", "branches.narrow.1")[1:]),
    Toy("TwoOutputs", imported="gives tuple for 2 images of 3x8x8, not logits"),
    Toy("DictOutput", imported="gives OrderedDict for 2 images of 3x8x8, not logits"),
    Toy("ObjectOutput", imported="gives Output for 2 images of 3x8x8, not logits"),
    Toy("AuxiliaryHead", planned="gives tuple for 2 images of 3x8x8 in train mode, not logits"),
    Toy("AuxiliarySum"),
    Toy("InModuleList", ("blocks.1", "blocks.3")),
    Toy("SharedLayer", ("norm", "norm..2")),
    Toy("TwoNames"),
    Toy("LazyParts"),
    Toy("WeightNormed"),
    Toy("OldWeightNormed"),
    Toy("SpectralNormed"),
    Toy("HookedOutput"),
    Toy("HookedInput"),
    Toy("Checkpointed"),
    Toy("InPlace"),
    Toy("DoubleInside", as_onnx=r"ONNX file does not run \(NotImplemented: .*Conv"),
    Toy("HalfInside", as_onnx="student.onnx gives logits up to", close=2e-2),
    Toy("ComplexBuffer"),
    Toy("ExtraState", imported="missing: _extra_state", planned="keeps '_extra_state' in its state dict, which is no tensor"),
    Toy("SharedBuffers", ("norm", "other")),
    Toy("TiedWeights"),
    Toy("Dropping", random=True),
    Toy("Scripted", NORM, ("script.1",), exported=r"cannot be exported \("),
    Toy("Subclassed", exported=r"cannot be exported \("),
    Toy("ByKeyword"),
    Toy("DirectForward"),
    Toy("FunctionalNorm", (), ("norm",)),
    Toy("Conditional"),
    Toy("Attending", random=True),
    Toy("Overwriting", (), ("norm",)),
    Toy("Counting"),
    Toy("data_parallel", ("module.norm",)),
    Toy("whole_script", (), ("1",), exported=r"cannot be exported \("),
    Toy("Unregistered", imported="gives other logits when it is built again with the same weights"),
    Toy("Routed", exported=r"cannot be exported \("),
    Toy("LogSoftmaxed"),
    Toy("Squeezed", imported=r"gives \(3,\) for 1 image of 3x8x8, not logits"),
)
QUICK = {toy.name for toy in random.Random(190).sample(TOYS, 8)}  # a sample with refusals of both kinds and images of both orders


def test_there_are_forty_of_different_names() -> None:
    assert len({toy.name for toy in TOYS}) == len(TOYS) >= 40
    assert len(QUICK) == 8


@pytest.mark.parametrize("toy", [pytest.param(toy, id=toy.name, marks=() if toy.name in QUICK else (pytest.mark.soak,)) for toy in TOYS])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The tensor attribute .* was assigned during export:UserWarning")
def test_a_network_is_right_in_every_stage_or_refused_by_the_first(toy: Toy, tmp_path: Path) -> None:
    state = _train_somewhere_else(toy)
    torch.save(state, tmp_path / "weights.pt")
    with refusal(toy.imported):
        import_teacher(tmp_path / "weights.pt", toy.architecture.to_json(), SPEC.to_json(), NAMES, tmp_path / "teacher")
    if toy.imported:
        assert not (tmp_path / "teacher").exists()
    else:
        teacher = CPU.place(load_classifier(tmp_path / "teacher").freeze())
        plain = _plain(toy, state)
        _predicts(toy, teacher, plain)
        _has_its_statistics(toy, teacher, tmp_path / "teacher", state)
        for method in METHODS:
            _serves_a_method(toy, teacher, method)
        _exports(toy, tmp_path, plain)
    with refusal(toy.planned or toy.imported):
        try_architecture(toy.architecture, SPEC, len(NAMES))
    if not (toy.planned or toy.imported):
        _trains(toy, teacher)


@contextmanager
def refusal(words: str) -> Iterator[None]:
    """Expect one sentence of ours with these words; nothing at all where there are none."""
    if not words:
        yield
        return
    with pytest.raises(DistilleryError) as caught:
        yield
    said = str(caught.value)
    assert re.search(words, said), said
    assert said.endswith(".")
    assert "\n" not in said


def _train_somewhere_else(toy: Toy) -> dict[str, Tensor]:
    """The state dict that a few passes in train mode leave."""
    torch.manual_seed(0)
    network: nn.Module = getattr(toy.module, toy.name)()
    network.train()
    for _ in range(3):
        images = torch.randn(8, *SPEC.shape) * 1.5 + 0.2
        network(images.contiguous(memory_format=torch.channels_last) if toy.order == "channels_last" else images)
    state: dict[str, Tensor] = network.state_dict()
    return state


def _plain(toy: Toy, state: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """The network by itself, in float32 and NCHW: images (N, C, H, W) in [0, 1] to logits."""
    network: nn.Module = getattr(toy.module, toy.name)()
    network.eval()
    network(torch.zeros(1, *SPEC.shape))  # lazy parts
    network.load_state_dict(state)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (SPEC.mean, SPEC.std))

    def logits(images: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = network((images - mean) / std)
        return found.float()

    return logits


def _predicts(toy: Toy, teacher: Classifier, plain: Callable[[Tensor], Tensor]) -> None:
    assert teacher.memory_format == toy.order
    images = random_images(5, SPEC.shape)
    _close(toy, predict(teacher, images, batch=2), plain(dequantize(images)))


def _close(toy: Toy, found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=toy.close * max(1.0, float(wanted.abs().max())))


def _has_its_statistics(toy: Toy, teacher: Classifier, bundle: Path, state: dict[str, Tensor]) -> None:
    layers = find_layers(teacher)
    assert layers.visits == tuple(f"network.{visit}" for visit in toy.visits)
    assert tuple(layers.left_out) == tuple(f"network.{path}" for path in toy.left_out)
    assert read_bundle(bundle)[0].has_batchnorm == bool(toy.visits)
    if not toy.visits:
        with refusal("no BatchNorm2d"):
            global_moments(teacher, "")
        return
    moments = global_moments(teacher, "")
    assert list(moments.mean) == list(moments.variance) == list(layers.visits)
    for visit in toy.visits:
        path = visit.partition("..")[0]
        assert torch.equal(moments.mean[f"network.{visit}"], state[f"{path}.running_mean"])
        assert torch.equal(moments.variance[f"network.{visit}"], state[f"{path}.running_var"])


def _serves_a_method(toy: Toy, teacher: Classifier, method: str) -> None:
    """One round: terms that are finite, images in [0, 1], a teacher that stays as it was."""
    before = copy.deepcopy(teacher.state_dict())
    row = METHODS[method]
    cls, config = row.load()
    settings = tiny(method) | ({} if toy.visits else dict.fromkeys(row.needs.values(), 0.0))
    moments = global_moments(teacher, "") if toy.visits else None
    if settings.get("coarse_steps") and not _takes_half_the_size(teacher):
        with refusal("set coarse_steps to 0"):
            cls(config.parse(settings), Ingredients(teacher, CPU, 0, moments))
        settings["coarse_steps"] = 0
    synthesizer = cls(config.parse(settings), Ingredients(teacher, CPU, 0, moments))
    opponent = Classifier(nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()), SPEC, NAMES)
    for _ in range(2):
        made = synthesizer.advance(opponent)
        assert made.terms
        assert all(bool(term.isfinite()) for term in made.terms.values()), made.terms
    images = synthesizer.synthesize(4, student=opponent).images
    assert images.shape == (4, *SPEC.shape)
    assert bool(((images >= 0) & (images <= 1)).all())
    passes = {key for key in before if key.endswith("passes")}
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items() if key not in passes)


def _takes_half_the_size(teacher: Classifier) -> bool:
    try:
        teacher(torch.rand(2, SPEC.channels, SPEC.height // 2, SPEC.width // 2))
    except Exception:  # whatever a stranger's network raises
        return False
    return True


def _trains(toy: Toy, teacher: Classifier) -> None:
    """One step of a student of the same kind, its loss as the plain networks have it."""
    student = build_student(toy.architecture, teacher, CPU, seed=1)
    assert student.memory_format == toy.order
    reference = copy.deepcopy(student.state_dict())
    pool = ImagePool(SPEC)
    pool.append(random_images(BATCH, SPEC.shape))
    stage = StageConfig.parse({"batch": BATCH, "epochs": 1, "steps_per_epoch": 1, "optimizer": {"rate": 0.01}, "augment": {}})
    trainer = StudentTrainer((stage,), teacher, student, CPU, 0)
    numbers = trainer.train(1, PoolFeed(pool))
    weights = dict(student.named_parameters())
    assert any(not torch.equal(value, reference[key]) for key, value in weights.items())
    assert all(bool(value.isfinite().all()) for value in weights.values())
    if not toy.random:
        network = getattr(toy.module, toy.name)()
        if toy.name == "LazyParts":
            network.eval()(torch.zeros(1, *SPEC.shape))
        network.load_state_dict({key.removeprefix("network."): value for key, value in reference.items()})
        images = (dequantize(pool.images) - student.mean) / student.std
        with torch.no_grad():
            ours = functional.log_softmax(network.train()(images).float() / 20, 1)
            theirs = functional.log_softmax(teacher(dequantize(pool.images)).float() / 20, 1)
        wanted = 400 * functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")
        assert numbers["kd"] == pytest.approx(float(wanted), rel=max(1e-3, 10 * toy.close))


def _exports(toy: Toy, folder: Path, plain: Callable[[Tensor], Tensor]) -> None:
    both = (("pt2", "onnx"), toy.exported or toy.as_onnx)
    for formats, words in (*([] if toy.name in QUICK else [both]), (("pt2",), toy.exported)):
        if (folder / "export").exists():
            continue  # pt2 is tried alone where ONNX is refused, and where there is little time
        with refusal(words):
            export_student(folder / "teacher", folder / "export", formats, ("float32",))
    if toy.exported:
        assert not (folder / "export").exists()
        return
    program = torch.export.load(folder / "export/student.pt2").module()
    images = dequantize(random_images(4, SPEC.shape))
    _close(toy, program(images), plain(images))
