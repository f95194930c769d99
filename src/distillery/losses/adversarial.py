"""Terms by which images are made hard for the present student."""

import math

import torch
from torch import Tensor

from distillery.losses.distillation import kl_per_sample
from distillery.numerics import full_precision

_LEAST, _MOST = 0.01, 0.99
"""Between which DeepInversion's code clamps probabilities."""


def decision_adversarial(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Reward disagreement where the student's decision is still the teacher's.

    -(1/N) * sum_i KL(softmax(t_i) || softmax(s_i)) * [argmax s_i = argmax t_i]

    Minimised by the generator. The mask carries no gradient; the mean runs over all N samples, not over the masked-in ones.

    Args:
        student_logits: s, (N, K).
        teacher_logits: t, (N, K).

    Returns:
        A scalar, at most 0; 0 where no decision is shared.

    Source: CMI, arXiv:2105.08584, equation 5; used unchanged by FastDFKD, arXiv:2112.07327.
    """
    # argmax has no gradient, so the mask is a constant; the answers are not detached: images move through both networks
    agree = student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
    return -(kl_per_sample(student_logits, teacher_logits) * agree).mean()


def jensen_shannon(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 3.0) -> Tensor:
    """The Jensen-Shannon divergence of two answers, in nats, mean over samples.

    (1/N) * sum_i ( KL(P_i || M_i) + KL(Q_i || M_i) ) / 2,    P = softmax(s/tau), Q = softmax(t/tau), M = (P + Q) / 2

    Args:
        student_logits: s, (N, K).
        teacher_logits: t, (N, K).
        temperature: tau, above 0.

    Returns:
        A scalar in [0, ln 2]; 0 where the logits are equal.

    Source: DeepInversion, arXiv:1912.08795, equation 7.
    """
    student, teacher = (full_precision(logits) / temperature for logits in (student_logits, teacher_logits))
    log_p, log_q = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    # all in logarithms: a probability that underflows is then 0 times a finite number, where log(p) would make it NaN
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    apart = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return apart.sum(dim=1).mean() / 2


def clamped_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 3.0) -> Tensor:
    """What DeepInversion's code computes in place of the Jensen-Shannon divergence: the other direction, of clamped probabilities.

    (1/N) * sum_i ( KL(M_i || P_i) + KL(M_i || Q_i) ) / 2,    P, Q and M each clamped to [0.01, 0.99] and not normalised again

    With many classes nearly every probability is below the clamp, so that little is left to differ.

    Args:
        student_logits: s, (N, K).
        teacher_logits: t, (N, K).
        temperature: tau, above 0.

    Returns:
        A scalar; 0 where the logits are equal.

    Source: the code of arXiv:1912.08795; CMI's and FastDFKD's have the same.
    """
    student, teacher = (full_precision(logits) / temperature for logits in (student_logits, teacher_logits))
    p, q = student.softmax(dim=1), teacher.softmax(dim=1)
    # M is that of the answers as they were, clamped by itself as there; no logarithm is of 0 behind a clamp, so no epsilon
    p, q, m = (part.clamp(_LEAST, _MOST) for part in (p, q, (p + q) / 2))
    apart = m * (2 * m.log() - p.log() - q.log())
    return apart.sum(dim=1).mean() / 2
