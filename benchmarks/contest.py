"""Both sides of the speed benchmark on one scene: equal weights, equal images; `worker.py` gives each its process.

Ours can be given back one habit of the reference at a time; the rival has all of them.
"""

import copy
import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from distillery.data.pool import ImagePool, dequantize, quantize
from distillery.engine.feeds import Feed, PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.losses.moments import LayerMoments, batch_moments, moment_distance
from distillery.methods.fast_dfkd import FastDFKD, FastDFKDConfig
from distillery.models.catalog import Architecture, build_network
from distillery.models.generators.network import build_generator
from distillery.recipes.loader import load_recipe
from distillery.recipes.schema import DistillationRecipe
from distillery.runtime import Runtime
from distillery.seeding import seeded, stream
from distillery.statistics.extract import global_moments
from distillery.statistics.moments import Moments
from distillery.synthesis.protocol import Ingredients
from distillery.types import Batch, Classifier, ImageSpec
from measure import synchronize, timed
from rival import Networks, PngFolder, Rival, Schedule, reading, write_png

SEED = 0
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Size:
    """How large the scene is; the defaults are what the published numbers are measured on.

    Attributes:
        recipe: whose schedule is taken.
        overrides: of the recipe.
        teacher: its architecture.
        pool_batches: batches of images that the student trains on.
    """

    recipe: str = "fast_dfkd/cifar10-wrn40_2-wrn16_1-k5"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    teacher: Architecture = Architecture(name="wrn_40_2")
    pool_batches: int = 20


TINY = Size(
    overrides={
        "synthesis.config.batch": 8,
        "synthesis.config.steps": 2,
        "synthesis.config.generator.width": 4,
        "synthesis.config.generator.latent": 8,
        "student.stages.0.batch": 8,
        "student.architecture.name": "wrn_10_1",
    },
    teacher=Architecture(name="wrn_10_1"),
    pool_batches=3,
)


@dataclass(frozen=True)
class Scene:
    """What both sides start from.

    Attributes:
        recipe: resolved.
        runtime: ours.
        teacher: on the CPU, its BatchNorm settled on the pool's images.
        student: fresh, likewise: with the statistics of no image at all its logits would be in the hundred thousands.
        images: the pool, uint8.
        moments: the teacher's.
        folder: for PNG files; the pool's are in `pool/`.
    """

    recipe: DistillationRecipe
    runtime: Runtime
    teacher: Classifier
    student: Classifier
    images: Tensor
    moments: Moments
    folder: Path

    @property
    def method(self) -> FastDFKDConfig:
        """The method's settings."""
        config: FastDFKDConfig = FastDFKDConfig.parse(self.recipe.synthesis.config)
        return config

    @property
    def batch(self) -> int:
        """Images of a student's step."""
        return self.recipe.student.stages[0].batch

    @property
    def pool_batches(self) -> int:
        """Steps of one pass over the pool."""
        return len(self.images) // self.batch


def build_scene(size: Size, runtime: Runtime, folder: Path) -> Scene:
    """Draw networks and images; nothing is trained, because speed does not depend on it.

    Args:
        size: of the scene.
        runtime: where ours runs.
        folder: gets the pool as PNG files.
    """
    recipe = load_recipe(size.recipe, size.overrides)
    assert isinstance(recipe, DistillationRecipe), "the loops beside it synthesize"
    spec = ImageSpec(channels=3, height=32, width=32, **CIFAR10)
    names = tuple(str(number) for number in range(10))
    with seeded(SEED, "bench"):
        teacher = Classifier(build_network(size.teacher, spec, 10), spec, names)
        student = Classifier(build_network(recipe.student.architecture, spec, 10), spec, names)
        batch = recipe.student.stages[0].batch
        images = quantize(draw_blots(size.pool_batches * batch, spec))
    for classifier in (teacher, student):
        settle(classifier, dequantize(images[: 2 * batch]))
    write_png(folder / "pool", dequantize(images), 0)
    return Scene(recipe, runtime, teacher.freeze(), student, images, global_moments(teacher, "0" * 64), folder)


def draw_blots(n: int, spec: ImageSpec) -> Tensor:
    """Images (n, C, H, W) in [0, 1] of random soft colours: an untrained generator's are so alike that networks settled on them explode."""
    coarse = torch.rand(n, spec.channels, spec.height // 4, spec.width // 4)
    return functional.interpolate(coarse, (spec.height, spec.width), mode="bilinear")


@torch.no_grad()
def settle(classifier: Classifier, images: Tensor) -> None:
    """Give a fresh network the BatchNorm statistics of images, and a head whose logits over them have mean 0 and deviation 1."""
    norms = [part for part in classifier.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.reset_running_stats()
        part.momentum = None  # an average over all batches: of the one that follows
    classifier.train()(images)
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum
    head = next(part for part in reversed(list(classifier.modules())) if isinstance(part, nn.Linear))
    deviation, mean = torch.std_mean(classifier.eval()(images), dim=0)
    head.weight.div_(deviation[:, None] + 1e-6)
    head.bias.sub_(mean).div_(deviation + 1e-6)


@dataclass(frozen=True)
class Timing:
    """Student steps.

    Attributes:
        start: seconds until the first batch of a pass is there.
        steps: seconds of the steps.
        count: how many steps.
    """

    start: float
    steps: float
    count: int

    def images_per_second(self, batch: int, pass_steps: int) -> float:
        """Of a whole pass over the pool, whose reader starts once."""
        return pass_steps * batch / (self.start + self.steps / self.count * pass_steps)


class Side(Protocol):
    """One contestant."""

    name: str

    def train(self, steps: int) -> Timing:
        """Train the student for some steps of a pass."""
        ...

    def synthesize(self) -> float:
        """Make a batch of images and keep it; seconds."""
        ...


class RivalSide:
    """The plain loop.

    Args:
        scene: copied from.
    """

    name = "rival"

    def __init__(self, scene: Scene) -> None:
        method, stage = scene.method, scene.recipe.student.stages[0]
        schedule = Schedule(
            batch=method.batch,
            latent=method.generator.latent,
            steps=method.steps,
            latent_rate=method.latent_rate,
            generator_rate=method.generator_rate,
            moments_weight=method.moments_weight,
            label_weight=method.label_weight,
            adversarial_weight=method.adversarial_weight,
            momentum=method.moments_momentum,
            warmup=method.warmup,
            student_rate=stage.optimizer.rate,
            temperature=stage.objectives[0]["temperature"],
        )
        generator = build_like_ours(scene)
        networks = Networks(scene.teacher.network, scene.student.network, generator, **CIFAR10, classes=10)
        self._rival = Rival(networks, schedule, scene.runtime.device, calls=method.warmup)
        self._device, self._batch, self._folder = scene.runtime.device, scene.batch, scene.folder
        self._png = PngFolder(scene.folder / "pool", reading(networks, scene.teacher.spec.height, schedule.crop_padding))
        self._draws = stream(SEED, "fast_dfkd", "learning")
        self._made = 0

    def train(self, steps: int) -> Timing:
        """The reader's workers start, then every step reads what they made ready."""
        with timed(self._device) as start:
            batches = self._png.batches(self._batch, steps)
            first = next(batches)
        with timed(self._device) as lap:
            self._rival.train(chain([first], batches))
        return Timing(start.seconds, lap.seconds, steps)

    def synthesize(self) -> float:
        """One call; its images become PNG files."""
        with timed(self._device) as lap:
            images = self._rival.synthesize(self._draws)
            write_png(self._folder / "made", images, self._made)
        self._made += len(images)
        return lap.seconds


HABITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "float32": ("everything in float32", ("student_loop", "synthesis")),
    "nchw": ("NCHW instead of channels-last", ("student_loop", "synthesis")),
    "unfrozen": ("the teacher's weights get gradients", ("synthesis",)),
    "hooks": ("statistics hooks stay on the teacher while the student trains", ("student_loop",)),
    "png": ("images in PNG files, read by 4 workers", ("student_loop",)),
    "malloc": ("the C library hands freed memory back to the kernel", ("student_loop", "synthesis")),
}
"""The reference's habits that ours can be given back: what each is, and which half it touches."""


class OurSide:
    """What the library does, or all of it but one habit of the reference.

    Args:
        scene: copied from.
        habit: a key of `HABITS`; "" for none.
    """

    def __init__(self, scene: Scene, habit: str = "") -> None:
        self.name = f"ours, {habit}" if habit else "ours"
        runtime = _runtime_of(scene.runtime, habit)
        teacher, student = (runtime.place(copy.deepcopy(part)) for part in (scene.teacher, scene.student))
        teacher.freeze()
        self._habit, self._device, self._pool = habit, runtime.device, ImagePool(scene.teacher.spec, runtime.device)
        self._pool.append(scene.images.to(runtime.device))
        self._made = ImagePool(scene.teacher.spec, runtime.device)
        self._feed: Feed = PoolFeed(self._pool)
        stages = scene.recipe.student.stages
        if habit == "png":
            self._feed = PngFeed(scene)
            stages = tuple(stage.model_copy(update={"augment": type(stage.augment)()}) for stage in stages)
        self._trainer = StudentTrainer(stages, teacher, student, runtime, SEED)
        # as far as a real run when its student starts: the adversarial term is on, and gradients are no longer looked at
        config = scene.method.cut(scene.method.batch, scene.method.steps)
        method = FastDFKD(config, Ingredients(teacher, runtime, SEED, scene.moments, diagnose=False))
        self._method, self._teacher, self._student = method, teacher, student
        if habit == "nchw":
            for part in (teacher, student):
                part.register_forward_pre_hook(lambda _, images: (images[0].contiguous(),))

    def train(self, steps: int) -> Timing:
        """As `engine.online` does between two rounds."""
        started = getattr(self._feed, "started", 0.0)
        with timed(self._device) as lap, _statistics_hooks(self._teacher, self._habit == "hooks"):
            self._trainer.train(steps, self._feed)
        start = getattr(self._feed, "started", 0.0) - started
        return Timing(start, lap.seconds - start, steps)

    def synthesize(self) -> float:
        """As `engine.online` does: one round, its images into a pool."""
        with timed(self._device) as lap, _unfrozen(self._teacher, self._habit == "unfrozen"):
            batch = self._method.advance(self._student).batch
            assert batch is not None
            self._made.append(batch.images, batch.labels)
        return lap.seconds


class PngFeed:
    """The pool as PNG files, read by 4 workers that crop and mirror.

    Attributes:
        started: seconds that passes took until their first batch was there, all together.
    """

    def __init__(self, scene: Scene) -> None:
        size, augment = scene.teacher.spec.height, scene.recipe.student.stages[0].augment
        crop = transforms.RandomCrop(size, padding=augment.crop_padding)
        transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])
        self._png = PngFolder(scene.folder / "pool", transform)
        self._device = scene.runtime.device
        self.started = 0.0

    def batches(self, batch: int, steps: int, draws: torch.Generator) -> Iterator[Batch]:
        """Batches in the workers' own order."""
        synchronize(self._device)
        began = time.perf_counter()
        found = self._png.batches(batch, steps)
        first = next(found)
        self.started += time.perf_counter() - began
        return (Batch(images) for images in chain([first], found))


@dataclass(frozen=True)
class PlainLayout(Runtime):
    """A runtime that leaves networks in NCHW."""

    def place(self, module: M) -> M:
        """Move a module to the device."""
        placed: M = module.to(device=self.device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return placed


def build_like_ours(scene: Scene) -> nn.Module:
    """A generator with the weights that ours begins with."""
    with seeded(SEED, "fast_dfkd", "init"):
        return build_generator(scene.method.generator, scene.teacher.spec, scene.teacher.num_classes)


def _runtime_of(runtime: Runtime, habit: str) -> Runtime:
    if habit == "float32":
        return dataclasses.replace(runtime, precision="float32")
    return PlainLayout(runtime.device, runtime.precision, runtime.threads) if habit == "nchw" else runtime


@contextmanager
def _statistics_hooks(teacher: Classifier, wanted: bool) -> Iterator[None]:
    """Measure every BatchNorm's input against its running statistics in each forward pass."""

    def measure(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        moment_distance([batch_moments(inputs[0])], [LayerMoments(norm.running_mean, norm.running_var)])

    norms = [part for part in teacher.modules() if isinstance(part, nn.BatchNorm2d)] if wanted else []
    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _unfrozen(teacher: Classifier, wanted: bool) -> Iterator[None]:
    """Let the teacher's weights take gradients, by the backward pass that fills them all; ours asks for the generator's alone."""
    if not wanted:
        yield
        return

    def backward(loss: Tensor, inputs: list[Tensor]) -> list[Tensor]:
        for value in inputs:
            value.grad = None
        loss.backward()
        return [value.grad for value in inputs if value.grad is not None]

    teacher.requires_grad_(True)
    try:
        with mock.patch("torch.autograd.grad", backward):
            yield
    finally:
        teacher.requires_grad_(False)
