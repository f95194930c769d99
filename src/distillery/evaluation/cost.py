"""What a classifier costs to keep and to run: parameters, FLOPs, bytes on disk, latency on a CPU."""

import copy
from statistics import median
from time import perf_counter
from typing import Self

import torch
from pydantic import Field

from distillery.config import Config
from distillery.errors import ConfigError
from distillery.foreign_code import guarded
from distillery.statistics.modes import eval_mode
from distillery.types import Classifier


class LatencyConfig(Config):
    """How latency is measured.

    Attributes:
        batches: batch sizes.
        warmup: forward passes before the clock starts.
        repeats: at most so many timed passes; the median counts.
        seconds: no further pass starts after so many seconds at one batch size, beyond the first three.
    """

    batches: tuple[int, ...] = (1, 64)
    warmup: int = Field(default=3, ge=1)
    repeats: int = Field(default=20, ge=3)
    seconds: float = Field(default=2.0, gt=0)


class Latency(Config):
    """One measurement on the CPU.

    Attributes:
        batch: images a forward pass.
        milliseconds: median of the passes.
        repeats: passes that were timed.
        threads: torch's threads at the time.
    """

    batch: int
    milliseconds: float
    repeats: int
    threads: int


class Cost(Config):
    """What one model costs.

    Attributes:
        parameters: learned numbers, shared ones counted once.
        flops: of one image's forward pass, a multiply-add counted as two; convolutions and matrix products only, as torch counts.
        weights_bytes: size of the bundle's safetensors file, 0 where the model has no file.
        latency: one entry a batch size; empty where it was not asked for.
    """

    parameters: int = Field(ge=0)
    flops: int = Field(ge=0)
    weights_bytes: int = Field(default=0, ge=0)
    latency: tuple[Latency, ...] = ()

    @classmethod
    def measure(cls, classifier: Classifier, weights_bytes: int, latency: LatencyConfig | None) -> Self:
        """Measure a CPU copy of a classifier, so that its device and modes stay as they are.

        Args:
            classifier: what to measure.
            weights_bytes: size of its file.
            latency: how to time it; None leaves the latency out.
        """
        model = _on_cpu(classifier)
        return cls(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            flops=count_flops(model),
            weights_bytes=weights_bytes,
            latency=tuple(measure_latency(model, batch, latency) for batch in latency.batches) if latency else (),
        )


def _on_cpu(classifier: Classifier) -> Classifier:
    """A copy on the CPU; the classifier itself where it stands there and cannot be copied, as one that keeps a computed tensor."""
    try:
        with guarded(f"{type(classifier.network).__name__} cannot be copied", "let its attributes be parameters, buffers and plain values"):
            return copy.deepcopy(classifier).cpu()
    except ConfigError:
        if classifier.mean.device.type != "cpu":
            raise
        return classifier


@torch.no_grad()
def count_flops(classifier: Classifier) -> int:
    """FLOPs of one image's forward pass, a multiply-add counted as two."""
    from torch.utils.flop_counter import FlopCounterMode  # it brings triton in, and most steps import this module for a type

    image = torch.zeros(1, *classifier.spec.shape, device=classifier.mean.device)
    with eval_mode(classifier), FlopCounterMode(display=False) as counter:
        classifier(image)
    return int(counter.get_total_flops())


@torch.inference_mode()
def measure_latency(classifier: Classifier, batch: int, config: LatencyConfig) -> Latency:
    """Median time of a forward pass of a classifier that stands on the CPU, after a warm-up.

    Args:
        classifier: on the CPU.
        batch: images a pass.
        config: how often.
    """
    images = torch.rand(batch, *classifier.spec.shape, generator=torch.Generator().manual_seed(0))
    times: list[float] = []
    with eval_mode(classifier):
        for _ in range(config.warmup):
            classifier(images)
        begin = perf_counter()
        while len(times) < 3 or (len(times) < config.repeats and perf_counter() - begin < config.seconds):
            start = perf_counter()
            classifier(images)
            times.append(perf_counter() - start)
    return Latency(batch=batch, milliseconds=1000 * median(times), repeats=len(times), threads=torch.get_num_threads())
