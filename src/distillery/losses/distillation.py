"""How far a student's answers are from its teacher's."""

import torch
from torch import Tensor
from torch.nn import functional

from distillery.numerics import full_precision

_AT_ONCE = 1024
"""Images whose logits are in float64 at a time: of many classes they are the largest thing in memory."""


def exact_kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(T || S) = sum_k p_T (log p_T - log p_S) at temperature 1 of each of N >= 1 images, in nats and in float64, to be reported.

    Args:
        teacher_logits: (N, K).
        student_logits: (N, K).

    Returns:
        (N,) float64.
    """
    parts = zip(teacher_logits.split(_AT_ONCE), student_logits.split(_AT_ONCE), strict=True)
    return torch.cat([_divergence(teacher, student) for teacher, student in parts])


def _divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    # of a student that follows closely, terms in float32 cancel to their rounding: -1e-7 where the divergence is 1e-9
    teacher, student = teacher_logits.double().log_softmax(1), student_logits.double().log_softmax(1)
    return (teacher.exp() * (teacher - student)).sum(1)


def kl_per_sample(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(t/tau) || softmax(s/tau)) of each sample, without the factor tau^2.

    Args:
        student_logits: s, (N, K), or (N, K, H, W) where each place has an answer.
        teacher_logits: t, likewise.
        temperature: tau, above 0.

    Returns:
        (N,) or (N, H, W), each at least 0.
    """
    # bfloat16 answers have 8 bits, too few for the tail of a softmax; and p log p of logarithms is never 0 times infinity
    log_student = functional.log_softmax(full_precision(student_logits) / temperature, dim=1)
    log_teacher = functional.log_softmax(full_precision(teacher_logits) / temperature, dim=1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Knowledge distillation: tau^2 / N * sum_i KL(softmax(t_i/tau) || softmax(s_i/tau)).

    The mean is over samples ("batchmean"), not over samples and classes; where each place of an image has an answer, it is over places
    too, so that a loss means the same whatever the size of the images. The factor tau^2 keeps the gradient's size when the
    temperature changes.

    Args:
        student_logits: s, (N, K) or (N, K, H, W).
        teacher_logits: t, likewise.
        temperature: tau, above 0.

    Returns:
        A scalar, at least 0; 0 where the logits are equal.

    Source: Hinton et al., arXiv:1503.02531, section 2.
    """
    return kl_per_sample(student_logits, teacher_logits, temperature).mean() * temperature**2
