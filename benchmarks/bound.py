"""What bounds FastDFKD on this machine: its convolutions alone, shape by shape, beside the whole step that they are part of.

    python benchmarks/bound.py                 the bound in each format, and the fraction of it that is reached
    python benchmarks/bound.py --profile       the same, and the profiler's table of a student's step and of a synthesis call

A convolution is timed by itself on tensors of its own shapes, which lie ready, in every format; the sum over a step's convolutions is the
time below which no arrangement of the rest can bring the step. Without native bfloat16 that format is left out: it takes minutes.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from contest import TINY, OurSide, Scene, Size, build_like_ours, build_scene
from distillery.runtime import Runtime, has_native_bfloat16, resolve_runtime
from measure import document, middle, timed, write

FORMATS: dict[str, tuple[torch.dtype, torch.memory_format]] = {
    "float32 NCHW": (torch.float32, torch.contiguous_format),
    "float32 channels-last": (torch.float32, torch.channels_last),
    "bfloat16 channels-last": (torch.bfloat16, torch.channels_last),
}
REPEATS = 5


@dataclass(frozen=True)
class Shape:
    """One convolution.

    Attributes:
        images: shape of its input.
        weight: shape of its weight.
        stride: of both axes.
        padding: of both axes.
    """

    images: tuple[int, ...]
    weight: tuple[int, ...]
    stride: int
    padding: int

    @property
    def operations(self) -> float:
        """Floating-point operations of a forward pass."""
        side = (self.images[2] + 2 * self.padding - self.weight[2]) // self.stride + 1
        return 2.0 * self.images[0] * side * side * self.weight[0] * self.weight[1] * self.weight[2] * self.weight[3]


@dataclass(frozen=True)
class Part:
    """Convolutions of a step that go through the same passes.

    Attributes:
        shapes: how often each occurs.
        inputs: times that gradients of their inputs are computed.
        weights: times that gradients of their weights are computed.
        times: forward passes.
    """

    shapes: Mapping[Shape, int]
    inputs: int
    weights: int
    times: int = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(".bench/bound.json"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="networks of toy size")
    given = parser.parse_args(arguments)
    runtime = resolve_runtime(given.device)
    with TemporaryDirectory(prefix="bound-") as folder:
        scene = build_scene(TINY if given.tiny else Size(), runtime, Path(folder))
        parts, reached = step_parts(scene), whole_steps(scene)
        ours = "bfloat16 channels-last" if runtime.precision == "bfloat16" else "float32 channels-last"
        formats = {name: kind for name, kind in FORMATS.items() if kind[0] == torch.float32 or has_native_bfloat16(runtime.device)}
        bounds = {name: bound(parts, runtime, *kind) for name, kind in formats.items()}
        for name, found in bounds.items():
            told = [f"{step} {values['seconds']:.2f} s at {values['gflops']:.0f} GFLOP/s" for step, values in found.items()]
            print(f"convolutions alone, {name:<23} {', '.join(told)}")
        fractions = {step: round(bounds[ours][step]["seconds"] / seconds, 3) for step, seconds in reached.items()}
        for step, seconds in reached.items():
            print(f"{step}: {seconds:.2f} s, of which its convolutions in {ours} would take {fractions[step]:.0%}")
        if given.profile:
            for step, table in profiles(scene).items():
                print(f"\n{step}\n{table}")
    fields = {"tiny": given.tiny, "n": REPEATS, "bounds": bounds, "seconds": reached, "format_of_ours": ours, "fractions": fractions}
    write(given.out, document("bound", runtime, fields))
    return 0


def step_parts(scene: Scene) -> dict[str, list[Part]]:
    """The convolutions of a student's step and of a synthesis call."""
    generator = build_like_ours(scene)
    images = torch.zeros(scene.batch, *scene.teacher.spec.shape)
    latent = torch.zeros(scene.method.batch, scene.method.generator.latent)
    teacher, student = shapes_of(scene.teacher, images), shapes_of(scene.student, images)
    made, seen = shapes_of(generator, latent), images[:1].expand(scene.method.batch, -1, -1, -1)
    looked, steps = shapes_of(scene.teacher, seen), scene.method.steps
    return {
        "student step": [Part(teacher, 0, 0), Part(student, 1, 1)],
        "synthesis call": [Part(looked, 1, 0, steps), Part(shapes_of(scene.student, seen), 1, 0, steps), Part(made, 1, 1, steps)],
    }


@torch.no_grad()
def shapes_of(network: nn.Module, images: Tensor) -> Counter[Shape]:
    """Every convolution of a forward pass; a batch of two is enough to see them."""
    found: Counter[Shape] = Counter()

    def see(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        # a subsampling layer takes its pixels before it convolves
        step = getattr(layer, "step", 1)
        size = [-(-side // step) for side in inputs[0].shape[2:]]
        shape = Shape((len(images), inputs[0].shape[1], *size), tuple(layer.weight.shape), int(layer.stride[0]), int(layer.padding[0]))
        found[shape] += 1

    handles = [layer.register_forward_pre_hook(see) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    network(images[:2])
    for handle in handles:
        handle.remove()
    return found


def bound(
    parts: Mapping[str, Sequence[Part]], runtime: Runtime, dtype: torch.dtype, layout: torch.memory_format
) -> dict[str, dict[str, float]]:
    """Seconds that each step's convolutions take alone, and their rate.

    Args:
        parts: step -> its parts.
        runtime: where.
        dtype: of images and weights.
        layout: of both.
    """
    known: dict[Shape, tuple[float, float, float]] = {}
    found = {}
    for step, pieces in parts.items():
        seconds = operations = 0.0
        for part in pieces:
            for shape, count in part.shapes.items():
                if shape not in known:
                    known[shape] = time_convolution(shape, runtime.device, dtype, layout)
                forward, inputs, weights = known[shape]
                seconds += part.times * count * (forward + part.inputs * inputs + part.weights * weights)
                operations += part.times * count * shape.operations * (1 + part.inputs + part.weights)
        found[step] = {"seconds": round(seconds, 4), "gflops": round(operations / seconds / 1e9, 1)}
    return found


def time_convolution(shape: Shape, device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> tuple[float, float, float]:
    """Seconds of the forward pass, of the gradient of the input, of that of the weight; medians."""
    images = torch.randn(shape.images, device=device).to(dtype).contiguous(memory_format=layout)
    weight = torch.randn(shape.weight, device=device).to(dtype).contiguous(memory_format=layout)
    stride, padding = [shape.stride] * 2, [shape.padding] * 2

    def forward() -> Tensor:
        return torch.nn.functional.conv2d(images, weight, stride=stride, padding=padding)

    output = forward()

    def backward(*wanted: bool) -> Callable[[], Any]:
        mask = [*wanted, False]
        return lambda: torch.ops.aten.convolution_backward(output, images, weight, None, stride, padding, [1, 1], False, [0, 0], 1, mask)

    runs = (forward, backward(True, False), backward(False, True))
    return tuple(_middle_of(run, device) for run in runs)  # type: ignore[return-value]


def whole_steps(scene: Scene) -> dict[str, float]:
    """Seconds of ours for the same two steps, medians."""
    side = OurSide(scene)
    side.train(1)
    side.synthesize()
    steps = [side.train(2) for _ in range(3)]
    return {
        "student step": round(middle([timing.steps / timing.count for timing in steps]), 4),
        "synthesis call": round(middle([side.synthesize() for _ in range(3)]), 4),
    }


def profiles(scene: Scene) -> dict[str, str]:
    """The profiler's tables, by the time that operators spend in themselves."""
    side = OurSide(scene)
    side.train(1)
    side.synthesize()
    tables = {}
    for step, run in (("student step", lambda: side.train(1)), ("synthesis call", side.synthesize)):
        with _profiler(scene.runtime) as seen:
            run()
        key = "self_cuda_time_total" if scene.runtime.device.type == "cuda" else "self_cpu_time_total"
        tables[step] = seen.key_averages().table(sort_by=key, row_limit=14, max_name_column_width=44)
    return tables


@contextmanager
def _profiler(runtime: Runtime) -> Iterator[Any]:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if runtime.device.type == "cuda" else [])]
    with profile(activities=activities) as seen:
        yield seen


@torch.no_grad()
def _middle_of(run: Callable[[], Any], device: torch.device) -> float:
    run()
    values = []
    for _ in range(REPEATS):
        with timed(device) as lap:
            run()
        values.append(lap.seconds)
    return middle(values)


if __name__ == "__main__":
    sys.exit(main())
