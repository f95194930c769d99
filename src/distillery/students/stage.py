"""The objectives of one stage at work: both networks run once a step, and every objective looks at what was seen."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.models.stages import kept_buffers
from distillery.models.trial import probe_images
from distillery.numerics import full_precision
from distillery.seeding import seeded
from distillery.statistics.modes import eval_mode
from distillery.statistics.taps import Side, Taps, tap_inputs, tap_outputs, visited_path
from distillery.students.catalog import find_objective
from distillery.students.objective import Objective, Seen, Tap
from distillery.students.paths import near_paths
from distillery.students.plan import StageConfig, needs_of, parse_objective
from distillery.types import Classifier

_PROBED = 2  # images that show the sizes of features


class StageObjectives:
    """What a stage minimises, on its teacher and student.

    Args:
        stage: names the objectives.
        teacher: frozen.
        student: on the teacher's device.

    Attributes:
        needs_teacher: whether any of the objectives does.
        modules: what is trained beside the student, by objective; empty until `build_modules`.

    Raises:
        ConfigError: a layer that is not there, or networks that an objective cannot compare.
    """

    def __init__(self, stage: StageConfig, teacher: Classifier, student: Classifier) -> None:
        self.teacher, self.student = teacher, student
        self.needs_teacher = any("teacher" in needs_of(objective) for objective in stage.objectives)
        self.modules = nn.ModuleDict()
        self._objectives = {label: _build(objective) for label, objective in zip(_labels(stage), stage.objectives, strict=True)}
        pairs = {label: objective.taps(teacher, student) for label, objective in self._objectives.items()}
        for label, pair in pairs.items():
            _check_paths(label, "teacher", teacher, pair.teacher)
            _check_paths(label, "student", student, pair.student)
        self._teacher_taps = tuple(dict.fromkeys(tap for pair in pairs.values() for tap in pair.teacher))
        self._student_taps = tuple(dict.fromkeys(tap for pair in pairs.values() for tap in pair.student))

    def see(self, images: Tensor, labels: Tensor | None = None) -> Seen:
        """Run each network once, the teacher only where an objective needs it.

        Args:
            images: (N, C, H, W) in [0, 1], as the student takes them.
            labels: (N,), or None.

        Raises:
            ConfigError: a tapped layer that was not visited, or whose tensor cannot be read.
        """
        teacher_logits, teacher_seen = self._see_teacher(images) if self.needs_teacher else (None, {})
        with _tapped(self.student, "student", self._student_taps) as student_features:
            student_logits = full_precision(self.student(images))
            return Seen(teacher_logits, student_logits, labels, teacher_seen, student_features())

    @torch.no_grad()
    def _see_teacher(self, images: Tensor) -> tuple[Tensor, dict[Tap, Tensor]]:
        with _tapped(self.teacher, "teacher", self._teacher_taps) as features:
            return full_precision(self.teacher(images)), {tap: _owned(tensor) for tap, tensor in features().items()}

    def build_modules(self, seed: int, *names: str | int) -> nn.ModuleDict:
        """Let every objective check what it will compare, and build what it trains beside the student.

        Nothing of the networks changes, and where no objective reads features neither is run.

        Args:
            seed: the run's.
            names: of the stream that the modules are drawn from; each objective's own name is added.

        Returns:
            `modules`, where the initialisation put them.

        Raises:
            ConfigError: see `Objective.check`.
        """
        seen = self._probe()
        for place, (label, objective) in enumerate(self._objectives.items()):
            try:
                objective.check(seen)
            except ConfigError as error:
                raise ConfigError(f"objectives.{place}: {error}") from None
            with seeded(seed, *names, label):
                built = dict(objective.modules(seen))
            if built:
                self.modules[label] = nn.ModuleDict(built)
        return self.modules

    def terms(self, seen: Seen) -> dict[str, Tensor]:
        """Every objective's terms, 0-d; a name that several of them have stands behind its objective's, as in `fitnets2.hint`."""
        found = {label: objective.terms(seen) for label, objective in self._objectives.items()}
        times = Counter(name for terms in found.values() for name in terms)
        return {name if times[name] == 1 else f"{label}.{name}": term for label, terms in found.items() for name, term in terms.items()}

    @torch.no_grad()
    def _probe(self) -> Seen:
        """What two images show, in eval mode; without features to read, answers of the right size that nobody gave."""
        device = self.student.mean.device
        labels = torch.zeros(_PROBED, dtype=torch.int64, device=device)
        if not (self._teacher_taps or self._student_taps):
            answers = [torch.zeros(_PROBED, network.num_classes, device=device) for network in (self.teacher, self.student)]
            return Seen(answers[0], answers[1], labels)
        with seeded(0, "probe"), eval_mode(self.teacher, self.student), kept_buffers(self.teacher, self.student):
            return self.see(self.student.arrange(probe_images(self.student.spec.shape, _PROBED).to(device)), labels)


def _labels(stage: StageConfig) -> list[str]:
    """A name for each objective of a stage: its own, with a number where there are two of a kind."""
    names = [str(objective["name"]) for objective in stage.objectives]
    return [name if names.count(name) == 1 else f"{name}{names[: place + 1].count(name)}" for place, name in enumerate(names)]


def _build(settings: Mapping[str, object]) -> Objective:
    objective: Objective = find_objective(str(settings["name"])).load()[0](parse_objective(settings))
    return objective


def _check_paths(label: str, who: str, classifier: Classifier, taps: tuple[Tap, ...]) -> None:
    known = dict(classifier.named_modules(remove_duplicate=False))
    for tap in taps:
        if (path := visited_path(tap.visit)) not in known:
            raise ConfigError(
                f"The objective {label} reads {path!r} of the {who}, which has no such layer: {near_paths(path, classifier)}."
            )


@contextmanager
def _tapped(classifier: Classifier, who: str, taps: tuple[Tap, ...]) -> Iterator[Callable[[], dict[Tap, Tensor]]]:
    """Tap a network for one forward pass; what it gives reads the features, in full precision."""
    openers: dict[Side, Callable[[nn.Module, list[str]], AbstractContextManager[Taps]]] = {"input": tap_inputs, "output": tap_outputs}
    with ExitStack() as stack:
        sides: dict[Side, Taps] = {}
        for side, opener in openers.items():
            if paths := dict.fromkeys(visited_path(tap.visit) for tap in taps if tap.side == side):
                sides[side] = stack.enter_context(opener(classifier, list(paths)))
        yield lambda: {tap: full_precision(_features(who, tap, sides[tap.side])) for tap in taps}


def _features(who: str, tap: Tap, seen: Taps) -> Tensor:
    features = seen.find(tap.visit)
    if features is None:
        lost = f"its {tap.side} is no tensor, empty, or overwritten in place by the next layer"
        why = lost if tap.visit in seen.keys else "no forward pass visits it by itself"
        raise ConfigError(f"The layer {str(tap)!r} of the {who} cannot be read, because {why}: name another layer.")
    return features


def _owned(features: Tensor) -> Tensor:
    """Features that autograd may keep for a loss, also where the network ran under inference mode."""
    return features.clone() if features.is_inference() else features
