"""What can be known of a student's plan before anything is trained: that its layers are there, fit each other and are moved."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.host import spoken
from distillery.models.trial import probe_images
from distillery.students.plan import ALL, StageConfig, StudentConfig, needs_of, select_trained
from distillery.students.stage import StageObjectives
from distillery.types import Classifier

_IMAGES = 2


def check_labels(stages: Sequence[StageConfig]) -> None:
    """Refuse objectives that need true labels, for images that have none.

    Raises:
        ConfigError: names the stage and the objective.
    """
    for number, stage in enumerate(stages):
        for objective in stage.objectives:
            if "labels" in needs_of(objective):
                raise ConfigError(
                    f"The objective {objective['name']} of student.stages.{number} needs true labels, which synthetic images do not have: "
                    "train on real images with `distillery train-student --images`, or take kd, whose hard labels are then the teacher's."
                )


def check_classes(student: StudentConfig) -> None:
    """Refuse a student of other classes than the teacher's, for images that only the teacher can tell.

    Raises:
        ConfigError: names the classes.
    """
    if student.classes:
        raise ConfigError(
            f"student.classes = {student.classes!r} are others than the teacher's, which synthetic images cannot show: train on real "
            "images with `distillery train-student --images`, or leave it out."
        )


def check_judged(student: StudentConfig, tested: bool, metric: str) -> None:
    """Refuse a student of other classes than the teacher's for a run that could say nothing of it in the end, before it is trained.

    Args:
        student: its plan.
        tested: whether the run has labelled images to evaluate on.
        metric: that its registration compares.

    Raises:
        ConfigError: names what only labelled images of these classes, or another number, can tell.
    """
    if not student.classes:
        return
    if not tested:
        raise ConfigError(
            f"student.classes = {student.classes!r} are others than the teacher's, so nothing but labelled images can tell what the "
            f"student is worth: give test images of these classes as {spoken('eval_data_uri')}."
        )
    if metric == "agreement":
        raise ConfigError(
            f"registration.metric = agreement compares answers, but student.classes = {student.classes!r} are others than the teacher's: "
            "take student/top1."
        )


def looks_inside(stages: Sequence[StageConfig]) -> bool:
    """Whether a plan names parts of the networks, so that `check_stages` has something to find."""
    return any(stage.trains != ALL or any("features" in needs_of(objective) for objective in stage.objectives) for stage in stages)


def check_stages(stages: Sequence[StageConfig], teacher: Classifier, student: Classifier) -> None:
    """Take each stage's first step up to its gradients, on two images.

    Args:
        stages: of the plan.
        teacher: frozen.
        student: to be thrown away; its modes and buffers change. Both may stand on the meta device, where nothing is computed.

    Raises:
        ConfigError: a layer that is not there or cannot be read, networks or features that an objective cannot compare, a term that moves
            nothing of what is trained, or a part to be trained that no term moves.
    """
    for number, stage in enumerate(stages):
        try:
            _check_stage(stage, teacher, student)
        except ConfigError as error:
            raise ConfigError(f"student.stages.{number} cannot be trained: {error}") from None


def _check_stage(stage: StageConfig, teacher: Classifier, student: Classifier) -> None:
    device = student.mean.device
    select_trained(student, stage.trains)
    objectives = StageObjectives(stage, teacher, student)
    objectives.build_modules(0, "check").to(device).train()
    images = student.arrange(probe_images(student.spec.shape, _IMAGES).to(device))
    terms = objectives.terms(objectives.see(images, torch.zeros(_IMAGES, dtype=torch.int64, device=device)))
    reached: set[nn.Parameter] = set()
    for name, term in terms.items():
        assert not term.dim(), f"the term {name} is {tuple(term.shape)} and no scalar"
        moved = _moved(term, [parameter for parameter in student.parameters() if parameter.requires_grad])
        if not moved:
            trained = "the student" if stage.trains == ALL else ", ".join(stage.trains)
            raise ConfigError(
                f"The term {name!r} moves no weight of {trained}: train what comes before the layers that it reads, "
                "name layers that a gradient goes through, or leave it out."
            )
        reached |= moved
    modules = dict(student.named_modules(remove_duplicate=False))
    for path in () if stage.trains == ALL else stage.trains:
        if reached.isdisjoint(modules[path].parameters()):
            raise ConfigError(f"No term of the stage moves a weight of {path!r}: leave it out of trains, or add an objective that does.")


def _moved(term: Tensor, parameters: Sequence[nn.Parameter]) -> set[nn.Parameter]:
    """The parameters that a gradient of a term reaches."""
    if not term.requires_grad:
        return set()
    for parameter in parameters:
        parameter.grad = None
    term.backward(retain_graph=True)  # as the trainer does: parts that are checkpointed the old way take no `autograd.grad`
    return {parameter for parameter in parameters if parameter.grad is not None}


def check_ood(stages: Sequence[StageConfig], given: bool) -> None:
    """Refuse stages that want images of another domain where there are none.

    Args:
        stages: of the student.
        given: whether there are some.

    Raises:
        ConfigError: names the stage.
    """
    for number, stage in enumerate(stages):
        if stage.ood_share and not given:
            raise ConfigError(
                f"student.stages.{number}.ood_share = {stage.ood_share} mixes images of another domain into batches, and none are given: "
                f"give some as {spoken('synth_ood_uri')}, or set it to 0."
            )
