"""Terms by which images are made hard for the present student."""

from torch import Tensor

from distillery.losses.distillation import kl_per_sample


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
    agree = student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
    return -(kl_per_sample(student_logits, teacher_logits) * agree).mean()
