"""Inversion as a plain loop: one batch, one optimizer a resolution, every term spelt out; it shares no loss, tap or optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distillery.types import Classifier
from equivalence.plain import SPEC, PlainAdam, cross_entropy, l2, norms_of, watched_forward

Extra = Callable[[Tensor, Tensor], Tensor]
"""Images and the teacher's logits of them -> a further term, weighted."""


def rolled(images: Tensor, down: int, right: int) -> Tensor:
    height, width = images.shape[2:]
    images = torch.cat([images[:, :, height - down % height :], images[:, :, : height - down % height]], dim=2)
    return torch.cat([images[..., width - right % width :], images[..., : width - right % width]], dim=3)


def halved(images: Tensor) -> Tensor:
    return (images[..., ::2, ::2] + images[..., 1::2, ::2] + images[..., ::2, 1::2] + images[..., 1::2, 1::2]) / 4


def neighbours(images: Tensor) -> list[Tensor]:
    right, below = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    return [right, below, images[..., 1:, 1:] - images[..., :-1, :-1], images[..., 1:, :-1] - images[..., :-1, 1:]]


def plain_loss(teacher: Classifier, pixels: Tensor, labels: Tensor, config: Any, extra: Extra | None) -> Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (SPEC.mean, SPEC.std))
    raw = pixels * std + mean
    images = raw + (raw.clamp(0, 1) - raw).detach()
    logits, statistics = watched_forward(teacher, images)
    loss = config.label_weight * cross_entropy(logits, labels)
    for part in neighbours(pixels):
        loss = loss + config.total_variation_weight * l2(part)
        loss = loss + config.total_variation_l1_weight * part.abs().sum() / part.numel()
    loss = loss + config.norm_weight * sum(l2(image) for image in pixels) / len(pixels)
    for index, (norm, (seen_mean, seen_variance)) in enumerate(zip(norms_of(teacher).values(), statistics, strict=True)):
        apart = l2(seen_mean - norm.running_mean) + l2(seen_variance - norm.running_var)
        loss = loss + config.moments_weight * (config.first_layer_factor if index == 0 else 1.0) * apart
    return loss if extra is None else loss + extra(images, logits)


def plain_rate(config: Any, step: int, steps: int) -> float:
    if step < config.warmup_steps:
        return config.rate * (step + 1) / config.warmup_steps  # type: ignore[no-any-return]
    if config.schedule == "constant":
        return config.rate  # type: ignore[no-any-return]
    share = torch.tensor((step - config.warmup_steps) / (steps - config.warmup_steps))
    return float(config.rate * (1 + torch.cos(torch.pi * share)) / 2)


def plain_inversion(
    teacher: Classifier, config: Any, labels: Tensor, draws: torch.Generator, extra: Extra | None = None
) -> tuple[Any, ...]:
    """The images of the best step of full resolution, and the loss of the last step."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (SPEC.mean, SPEC.std))
    pixels = torch.randn(len(labels), *SPEC.shape, generator=draws)
    for coarse, steps in ((True, config.coarse_steps), (False, config.steps)):
        adam, best, images = PlainAdam([0.0], config.betas), float("inf"), pixels
        for step in range(steps):
            pixels = pixels.detach().requires_grad_()
            view, reach = (halved(pixels), config.jitter // 2) if coarse else (pixels, config.jitter)
            if reach:
                view = rolled(view, *torch.randint(-reach, reach + 1, (2,), generator=draws).tolist())
            if config.flip and torch.randint(2, (), generator=draws) == 1:
                view = view[..., list(range(view.shape[3]))[::-1]]
            loss = plain_loss(teacher, view, labels, config, extra)
            if float(loss.detach()) < best:
                best, images = float(loss.detach()), (pixels.detach() * std + mean).clamp(0, 1)
            gradient = torch.autograd.grad(loss, pixels)[0]
            adam.rates = [plain_rate(config, step, steps)]
            pixels = pixels.detach().clone()
            adam.step([pixels], [gradient])
            if config.clip:
                for channel in range(pixels.shape[1]):
                    m, s = SPEC.mean[channel], SPEC.std[channel]
                    pixels[:, channel] = pixels[:, channel].clamp(-m / s, (1 - m) / s)
    return images, float(loss.detach())
