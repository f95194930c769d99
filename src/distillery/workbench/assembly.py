"""What the training steps put together from their inputs: a verified teacher, a method, a student, a way to score it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from distillery.data.ood import OodImages
from distillery.engine.labelling import labeller_of
from distillery.engine.selection import Judge, Score, Selection
from distillery.errors import ConfigError
from distillery.evaluation.predict import predict
from distillery.evaluation.report import Chosen
from distillery.methods.catalog import Method, Need, Supply, find_method
from distillery.models.bundle import VerifiedBundle, fetch_bundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.models.trial import try_architecture
from distillery.models.versions import Weights
from distillery.provenance import sha256_file
from distillery.recipes.sections import Section
from distillery.runtime import Runtime
from distillery.seeding import seeded
from distillery.statistics.layers import find_layers
from distillery.statistics.moments import Moments, load_moments
from distillery.synthesis.bundle import SynthesizerState
from distillery.synthesis.config import MethodConfig
from distillery.synthesis.ensemble import Ensemble
from distillery.synthesis.protocol import Ingredients, Synthesizer
from distillery.synthesis.share import ALONE, Share
from distillery.types import Classifier, MemoryFormat
from distillery.workbench.bench import Workbench, workspace
from distillery.workbench.students import write_choice

_READ_FROM_STATISTICS: set[Need] = {"moments", "class_moments"}


@dataclass(frozen=True)
class Teacher:
    """A verified teacher.

    Attributes:
        classifier: frozen, on the CPU.
        sha256: of its bundle.
    """

    classifier: Classifier
    sha256: str


@dataclass(frozen=True)
class PlannedMethod:
    """A method ready to be built.

    Attributes:
        name: of its catalog row.
        config: parsed by the row's config class.
        statistics_path: the teacher's moments; None where the method, configured so, needs none.
    """

    name: str
    config: MethodConfig
    statistics_path: Path | None
    _read: dict[str, Moments] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def parse(cls, method: str, config: Mapping[str, Any], statistics_path: Path | None) -> "PlannedMethod":
        """Parse a section's method and settings.

        Raises:
            ConfigError: no such method, settings that it does not have, or no statistics for a method that needs them.
        """
        row = find_method(method)
        parsed = row.parse(config, "method_config")
        needed = not _READ_FROM_STATISTICS.isdisjoint(row.required(parsed))
        if needed and statistics_path is None:
            raise ConfigError(f"The method {method} needs the teacher's statistics, and none are given: give their file too.")
        return cls(method, parsed, statistics_path if needed else None)

    @property
    def row(self) -> Method:
        """The method's row of the catalog."""
        return find_method(self.name)

    def inputs(self, teacher: Teacher) -> dict[str, str]:
        """sha256 of what the method is built from, once it has been looked at.

        Raises:
            ConfigError: a need of the method that the teacher does not meet, such as BatchNorm2d.
            MissingResourceError: no statistics file.
        """
        if self.statistics_path is None:
            return {"teacher": teacher.sha256}
        moments = self._moments(self.statistics_path, teacher)
        # their file names the layers: only where it names none, the network is asked which were left out, and why
        left_out = "" if moments.mean else find_layers(teacher.classifier).exceptions()
        self.row.check(self.config, Supply(bool(moments.mean), by_class=moments.kind == "per_class", ood=True, left_out=left_out))
        return {"teacher": teacher.sha256, "statistics": sha256_file(self.statistics_path)}

    def _moments(self, path: Path, teacher: Teacher) -> Moments:
        """The teacher's moments, read once however often they are asked for."""
        if teacher.sha256 not in self._read:
            self._read[teacher.sha256] = load_moments(path, teacher.sha256)
        return self._read[teacher.sha256]

    def build(
        self, teacher: Teacher, runtime: Runtime, seed: int, turns: int = 1, ood: OodImages | None = None, share: Share = ALONE
    ) -> Synthesizer:
        """The synthesizer; places the teacher on the device.

        Args:
            teacher: in use.
            runtime: device and precision.
            seed: the run's.
            turns: that it will learn for; who only draws from it need not know.
            ood: images of another domain, for a method that needs them.
            share: which of an ensemble's generators it holds.

        Raises:
            CheckpointMismatchError: moments of another teacher.
        """
        return self._construct(self._ingredients(teacher, runtime, seed, turns, ood, share))

    def restore(
        self, made: Sequence[SynthesizerState], teacher: Teacher, runtime: Runtime, seed: int, ood: OodImages | None = None
    ) -> Synthesizer:
        """What draws from trained synthesizers: the one, or the shares of an ensemble as one.

        Args:
            made: their states; of an ensemble every share, in any order.
            teacher: in use.
            runtime: device and precision.
            seed: the run's.
            ood: images of another domain, for a method that needs them.
        """
        parts = []
        for state in sorted(made, key=lambda state: state.share.first):
            synthesizer = self.build(teacher, runtime, seed, ood=ood, share=state.share)
            synthesizer.load_state_dict(state.state)
            parts.append((state.share, synthesizer))
        return parts[0][1] if len(parts) == 1 else Ensemble(parts, self._ingredients(teacher, runtime, seed, 1, ood, ALONE))

    def _construct(self, ingredients: Ingredients) -> Synthesizer:
        synthesizer: Synthesizer = self.row.load()[0](self.config, ingredients)
        return synthesizer

    def _ingredients(self, teacher: Teacher, runtime: Runtime, seed: int, turns: int, ood: OodImages | None, share: Share) -> Ingredients:
        placed = runtime.place(teacher.classifier)
        moments = self._moments(self.statistics_path, teacher).to(runtime.device) if self.statistics_path else None
        others = ood.pool(placed.spec, runtime.device) if ood else None
        return Ingredients(placed, runtime, seed, moments, turns, others, share=share)


def open_teacher(section: Section, uri: str) -> Teacher:
    """Fetch and verify the teacher that the plan was made for.

    Raises:
        CheckpointMismatchError: another teacher.
        MissingResourceError: no bundle there.
        StoreError: damaged weights.
    """
    folder = fetch_bundle(uri, workspace() / "bundles")
    bundle = VerifiedBundle(folder, section.teacher_sha256)
    return Teacher(bundle.classifier, bundle.sha256)


def build_student(
    architecture: Architecture,
    teacher: Classifier,
    runtime: Runtime,
    seed: int,
    class_names: tuple[str, ...] = (),
    start: VerifiedBundle | None = None,
) -> Classifier:
    """A student for the teacher's images, on the device.

    Args:
        architecture: what it is built from.
        teacher: whose images it takes.
        runtime: device and precision.
        seed: the run's: fresh weights are drawn from its own stream.
        class_names: of the student; () are the teacher's.
        start: a bundle of the same network, whose weights it begins with; None draws fresh ones.

    Raises:
        ConfigError: one that cannot be run or trained here; a foreign one is tried on another copy first.
    """
    names = class_names or teacher.class_names
    order: MemoryFormat = "channels_last"
    if ":" in architecture.name:
        order = try_architecture(architecture, teacher.spec, len(names), runtime)
    with seeded(seed, "student"):
        network = start.load().network if start else build_network(architecture, teacher.spec, len(names))
    return runtime.place(Classifier(network, teacher.spec, names, order, teacher.task))


def judging(held_out: Callable[[], tuple[Tensor, Tensor]]) -> Judge:
    """A judge by held-out images: agreement with the teacher, and KL.

    Args:
        held_out: gives uint8 images and what is stored of the teacher's answers, asked again each time because those of an online run grow.
    """

    def judge(student: Classifier, start: int) -> Score:
        images, answers = (part[start:] for part in held_out())
        if not len(images):
            return Score()
        return labeller_of(student.task).compare(answers, predict(student, images))

    return judge


def save_student(bench: Workbench, folder: Path, student: Classifier, selection: Selection, architecture: Architecture) -> dict[str, float]:
    """Write the student of the last epoch, the best one to `best/` below it, and snapshots to `epochs/NNNNNN/`.

    Args:
        bench: the open step.
        folder: of the last student.
        student: as it is after the last epoch; holds the weights of the last one written when this returns.
        selection: of the run.
        architecture: what it was built from.

    Returns:
        Where anything was held out: `best_epoch`, its `best_agreement` and `best_kl` there, `best_images`, how many images that was, and
        `best_compared`, how many students were judged on them.
    """
    layers = find_layers(student)
    save_classifier(folder, student, architecture, bench.provenance, layers)
    best = selection.best
    for name, weights in _others(selection):
        student.load_state_dict(Weights.written_by(student, weights))
        save_classifier(folder / name, student, architecture, bench.provenance, layers)
    if not best:
        return {}
    write_choice(folder, Chosen(best.epoch, best.score.images), bench.provenance)
    numbers = {"epoch": best.epoch, "agreement": best.score.agreement, "kl": best.score.kl, "images": best.score.images}
    return {f"best_{name}": float(value) for name, value in {**numbers, "compared": best.compared}.items()}


def _others(selection: Selection) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Folder and weights of every student that is published beside the last one, one at a time."""
    for kept in selection.snapshots:
        yield f"epochs/{kept.epoch:06d}", selection.weights(kept)
    if selection.best:
        yield "best", selection.best.weights
