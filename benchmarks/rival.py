"""The rival: a plain FastDFKD loop as the reference implementation is known to run, written here from those facts, none of its code.

What it does as the reference does: float32 and NCHW throughout; the teacher in eval mode but not frozen, so that every backward pass
computes gradients of its weights too; hooks on each of its BatchNorm layers that are never removed, so that they work while the student
trains as well; images in a folder of PNG files, read back through torchvision's transforms by a DataLoader of 4 workers that starts anew
with each pass; the loss fetched with `.item()` at each step. Nothing in it is slower than it has to be for that: crops are views,
statistics are one kernel a layer, the adapted generator is a plain copy.

Left out, because they cost nothing in the long run or are no habit: the one-time reset of the generator's first layers, the learning-rate
schedule, and log lines.

`tests/equivalence/test_rival.py` feeds the same draws to this loop and to ours in float64 and expects the same updates.
"""

import copy
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

WORKERS = 4
BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class Schedule:
    """The numbers of a FastDFKD run; the defaults are the published ones for CIFAR-10, WRN-40-2 to WRN-16-1, k = 5."""

    batch: int = 256
    latent: int = 256
    steps: int = 5
    latent_rate: float = 0.01
    generator_rate: float = 3e-3
    moments_weight: float = 10.0
    label_weight: float = 0.4
    adversarial_weight: float = 1.1
    momentum: float = 0.9
    warmup: int = 20
    crop_padding: int = 4
    student_rate: float = 0.2
    student_momentum: float = 0.9
    student_decay: float = 1e-4
    temperature: float = 20.0


@dataclass(frozen=True)
class Networks:
    """What is played with; the rival works on copies.

    Attributes:
        teacher: takes normalised images, gives logits.
        student: the same.
        generator: `generator(z, labels)` gives images in [0, 1].
        mean: of the teacher's normalisation, a channel each.
        std: likewise.
        classes: number of logits.
    """

    teacher: nn.Module
    student: nn.Module
    generator: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int


class StatisticsHook:
    """Distance of a BatchNorm's input from its running statistics, measured in every forward pass from registration on."""

    def __init__(self, norm: nn.BatchNorm2d, momentum: float) -> None:
        self._momentum = momentum
        self._average: tuple[Tensor, Tensor] | None = None
        self.distance = self._mean = self._variance = torch.empty(0)
        norm.register_forward_hook(self._measure)

    def remember(self) -> None:
        """Move the running average by the statistics of the last forward pass; once a synthesis call."""
        mean, variance, m = self._mean.detach(), self._variance.detach(), self._momentum
        if self._average is not None:
            mean, variance = m * self._average[0] + (1 - m) * mean, m * self._average[1] + (1 - m) * variance
        self._average = (mean, variance)

    def _measure(self, norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        # both in one kernel: a mean and a variance apart take longer
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        self._mean, self._variance = mean, variance
        if self._average is not None:
            mean = (1 - self._momentum) * mean + self._momentum * self._average[0]
            variance = (1 - self._momentum) * variance + self._momentum * self._average[1]
        assert norm.running_var is not None
        assert norm.running_mean is not None
        self.distance = torch.norm(norm.running_var - variance, 2) + torch.norm(norm.running_mean - mean, 2)


class PngFolder(Dataset[Tensor]):
    """Images as PNG files in a folder; what it holds is looked up when it is made.

    Args:
        folder: made where missing.
        transform: from a PIL image to a tensor.
    """

    def __init__(self, folder: Path, transform: Any) -> None:
        self.files = sorted(os.path.join(top, name) for top, _, names in os.walk(folder) for name in names)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        image: Tensor = self.transform(Image.open(self.files[index]))
        return image

    def batches(self, batch: int, steps: int) -> Iterator[Tensor]:
        """Shuffled batches of a pass, or of its first `steps`; the call starts the workers.

        Args:
            batch: images each.
            steps: how many batches; as many as fill one pass at most.
        """
        sampler = RandomSampler(self, num_samples=min(batch * steps, len(self)))
        with warnings.catch_warnings():
            # 4 workers are the habit, however few cores there are
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            # forked, as on Linux by default; a process that was itself spawned would spawn them, which takes seconds
            loader = DataLoader(
                self, batch, sampler=sampler, num_workers=WORKERS, pin_memory=torch.cuda.is_available(), multiprocessing_context="fork"
            )
            return iter(loader)


def write_png(folder: Path, images: Tensor, start: int) -> None:
    """Write images (N, C, H, W) in [0, 1] as 8-bit PNG files, one each, numbered from `start`."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    for number, picture in enumerate(pixels, start=start):
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(folder / f"{number}.png")


def reading(networks: Networks, size: int, padding: int) -> Any:
    """The transform of a student's images: random crop, random mirror, tensor, normalisation."""
    parts = [transforms.RandomCrop(size, padding=padding), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return transforms.Compose([*parts, transforms.Normalize(networks.mean, networks.std)])


class Rival:
    """The loop's two halves.

    Args:
        networks: copied.
        schedule: its numbers.
        device: where it runs.
        calls: synthesis calls that count as made.
    """

    def __init__(self, networks: Networks, schedule: Schedule, device: torch.device | str = "cpu", calls: int = 0) -> None:
        self.schedule, self.device, self.calls = schedule, torch.device(device), calls
        self.teacher, self.student, self.generator = (
            copy.deepcopy(network).to(device).to(memory_format=torch.contiguous_format).requires_grad_(True)  # type: ignore[call-overload, unused-ignore]  # torch 2.9
            for network in (networks.teacher.eval(), networks.student, networks.generator.train())
        )
        self.hooks = [StatisticsHook(part, schedule.momentum) for part in self.teacher.modules() if isinstance(part, nn.BatchNorm2d)]
        self.classes = networks.classes
        self._mean, self._std = (torch.tensor(value, device=device).view(1, -1, 1, 1) for value in (networks.mean, networks.std))
        self._meta = torch.optim.Adam(self.generator.parameters(), lr=schedule.generator_rate * schedule.steps, betas=BETAS)
        self._optimizer = torch.optim.SGD(
            self.student.parameters(), schedule.student_rate, momentum=schedule.student_momentum, weight_decay=schedule.student_decay
        )

    def train(self, batches: Iterable[Tensor]) -> float:
        """Train the student on batches of normalised images; the last step's loss."""
        value = 0.0
        self.teacher.eval()
        self.student.train()
        for images in batches:
            images = images.to(self.device, non_blocking=True)
            with torch.no_grad():
                wanted = self.teacher(images)
            loss = self._distance(self.student(images), wanted)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            value = loss.item()
        return value

    def synthesize(self, draws: torch.Generator) -> Tensor:
        """One synthesis call: k steps of a copy of the generator and of z, then one of the generator itself; the best images.

        Args:
            draws: CPU stream of labels, latents and crops.
        """
        schedule = self.schedule
        self.calls += 1
        self.teacher.eval()
        self.student.eval()
        labels = torch.randint(self.classes, (schedule.batch,), generator=draws).to(self.device)
        z = torch.randn(schedule.batch, schedule.latent, generator=draws).to(self.device).requires_grad_()
        adapted = copy.deepcopy(self.generator)
        groups: list[dict[str, Any]] = [{"params": list(adapted.parameters())}, {"params": [z], "lr": schedule.latent_rate}]
        optimizer = torch.optim.Adam(groups, lr=schedule.generator_rate, betas=BETAS)
        best, lowest = torch.empty(0), float("inf")
        for step in range(schedule.steps):
            images = adapted(z, labels)
            loss = self._loss((crop_and_mirror(images, schedule.crop_padding, draws) - self._mean) / self._std, labels)
            value = loss.item()
            if value < lowest:
                best, lowest = images.detach(), value
            optimizer.zero_grad()
            loss.backward()
            self._add_gradients(adapted, first=step == 0)
            optimizer.step()
        self._meta.step()
        for hook in self.hooks:
            hook.remember()
        return best

    def _loss(self, view: Tensor, labels: Tensor) -> Tensor:
        schedule = self.schedule
        logits = self.teacher(view)
        loss = schedule.moments_weight * sum(hook.distance for hook in self.hooks)
        loss = loss + schedule.label_weight * functional.cross_entropy(logits, labels)
        if self.calls >= schedule.warmup:
            answers = self.student(view)
            shared = (answers.argmax(1) == logits.argmax(1)).to(logits.dtype)
            apart = functional.kl_div(functional.log_softmax(answers, 1), functional.softmax(logits, 1), reduction="none").sum(1)
            loss = loss - schedule.adversarial_weight * (apart * shared).mean()
        return loss

    def _distance(self, answers: Tensor, wanted: Tensor) -> Tensor:
        tau = self.schedule.temperature
        soft, target = functional.log_softmax(answers / tau, 1), functional.softmax(wanted / tau, 1)
        return functional.kl_div(soft, target, reduction="batchmean") * tau**2

    def _add_gradients(self, adapted: nn.Module, *, first: bool) -> None:
        """Sum the gradients of all k steps on the generator itself."""
        for own, copied in zip(self.generator.parameters(), adapted.parameters(), strict=True):
            if first:
                own.grad = torch.zeros_like(own)
            assert own.grad is not None
            assert copied.grad is not None
            own.grad += copied.grad


def crop_and_mirror(images: Tensor, padding: int, draws: torch.Generator) -> Tensor:
    """Pad with zeros, crop each image back at a random place, mirror every second one or so; differentiable."""
    num, _, height, width = images.shape
    down, right = torch.randint(-padding, padding + 1, (2, num), generator=draws).tolist()
    mirrored = torch.randint(0, 2, (num,), generator=draws).tolist()
    padded = functional.pad(images, [padding] * 4).unbind()
    views = []
    for image, top, left, mirror in zip(padded, down, right, mirrored, strict=True):
        view = image[:, padding + top : padding + top + height, padding + left : padding + left + width]
        views.append(view.flip(-1) if mirror else view)
    return torch.stack(views)
