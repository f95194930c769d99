"""How far a student's answers are from its teacher's."""

from torch import Tensor
from torch.nn import functional

from distillery.numerics import full_precision


def kl_per_sample(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(t/tau) || softmax(s/tau)) of each sample, without the factor tau^2.

    Args:
        student_logits: s, (N, K).
        teacher_logits: t, (N, K).
        temperature: tau, above 0.

    Returns:
        (N,), each at least 0.
    """
    log_student = functional.log_softmax(full_precision(student_logits) / temperature, dim=1)
    log_teacher = functional.log_softmax(full_precision(teacher_logits) / temperature, dim=1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Knowledge distillation: tau^2 / N * sum_i KL(softmax(t_i/tau) || softmax(s_i/tau)).

    The mean is over samples ("batchmean"), not over samples and classes; the factor tau^2 keeps the gradient's size when the
    temperature changes.

    Args:
        student_logits: s, (N, K).
        teacher_logits: t, (N, K).
        temperature: tau, above 0.

    Returns:
        A scalar, at least 0; 0 where the logits are equal.

    Source: Hinton et al., arXiv:1503.02531, section 2.
    """
    return kl_per_sample(student_logits, teacher_logits, temperature).mean() * temperature**2
