"""Where a student's images come from: a published set, a live synthesizer, or real labelled data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from distillery.data.given import GivenImages, is_of_images, load_given, read_facts, withhold
from distillery.data.ood import OodImages, load_ood
from distillery.data.pool import ImagePool
from distillery.data.reference import SetReference, open_reference, read_reference
from distillery.data.store import SyntheticSet
from distillery.engine.feeds import Feed, FreshFeed, LabelledFeed, PoolFeed
from distillery.engine.labelling import labeller_of
from distillery.engine.selection import Judge
from distillery.errors import ConfigError
from distillery.host import spoken
from distillery.provenance import check_pinned
from distillery.recipes.sections import OodSection
from distillery.synthesis.bundle import list_synthesizers, load_synthesizer
from distillery.synthesis.protocol import Synthesizer
from distillery.types import Classifier
from distillery.workbench.assembly import PlannedMethod, Teacher, judging
from distillery.workbench.bench import Workbench
from distillery.workbench.given import GivenSource
from distillery.workbench.sets import show_set
from distillery.workbench.synthesizers import Synthesizers, check_planned


@dataclass(frozen=True)
class OpenedSource:
    """A source that has been opened.

    Attributes:
        feed: gives the batches.
        images: in one pass over it; 0 where it has no end, so that an epoch's steps have to be given.
        synthesizer: whose random stream the feed draws from; it belongs to the checkpoint.
        judge: scores the student on what is held out; None where nothing is.
    """

    feed: Feed
    images: int
    synthesizer: Synthesizer | None = None
    judge: Judge | None = None


class Source(Protocol):
    """A verified source that has not been loaded."""

    @property
    def inputs(self) -> dict[str, str]:
        """sha256 of what it reads, by name."""
        ...

    def show(self, bench: Workbench, context: str = "training") -> None:
        """Tell the tracker what is trained on, or used for something else."""
        ...

    def open(self, bench: Workbench, teacher: Teacher, student: Classifier) -> OpenedSource:
        """Load it.

        Args:
            bench: the open step.
            teacher: placed on the device.
            student: that will train; a live synthesizer may look at it.
        """
        ...


@dataclass(frozen=True)
class SetSource:
    """A published set.

    Attributes:
        synthetic: the set.
        reference: its address and digest.
    """

    synthetic: SyntheticSet
    reference: SetReference

    @property
    def inputs(self) -> dict[str, str]:
        """The digest of its manifest."""
        return {"set": self.synthetic.digest}

    def show(self, bench: Workbench, context: str = "training") -> None:
        """By its manifest."""
        show_set(bench, self.reference, context)

    def open(self, bench: Workbench, teacher: Teacher, student: Classifier) -> OpenedSource:
        """Load the set, every shard verified.

        Raises:
            ConfigError: it has no images, or they are of another shape than the teacher's.
            StoreError: a damaged shard.
        """
        self.synthetic.check(teacher.classifier.spec)
        images = self.synthetic.load("train").images
        pool = ImagePool(teacher.classifier.spec, bench.runtime.device, capacity=len(images))
        pool.append(images)
        return OpenedSource(PoolFeed(pool), len(images), judge=self._judge())

    def _judge(self) -> Judge | None:
        held_out = self.synthetic.load("holdout")
        if not len(held_out.images):
            return None
        return judging(lambda: (held_out.images, held_out.teacher_logits))


@dataclass(frozen=True)
class LiveSource:
    """A trained synthesizer, one or an ensemble, that makes new images for each step; nothing is held out.

    Attributes:
        plan: the method that it was trained by.
        made: its bundles.
        inputs: of the method and of the bundles.
        path: of the bundle, or of the folder that holds an ensemble's.
        ood: images of another domain, for a method that is not built without them.
    """

    plan: PlannedMethod
    made: Synthesizers
    inputs: dict[str, str]
    path: Path
    ood: OodImages | None = None

    def show(self, bench: Workbench, context: str = "training") -> None:
        """By its bundles."""
        for sha256 in self.made.inputs.values():
            bench.tracker.dataset("live synthesizer", str(self.path), sha256, context)

    def open(self, bench: Workbench, teacher: Teacher, student: Classifier) -> OpenedSource:
        """Build the synthesizer as it was when its training ended."""
        synthesizer = self.plan.restore(self.made.states, teacher, bench.runtime, bench.section.seed, self.ood)
        return OpenedSource(FreshFeed(synthesizer, student, bench.clock), 0, synthesizer)


@dataclass(frozen=True)
class RealSource:
    """Real images; where they are labelled, the ceiling, which only who owns data can train.

    Attributes:
        given: the images.
        inputs: their digest, under the name that says whether labels are read.
        holdout: how many of them are not trained on.
    """

    given: GivenImages
    inputs: dict[str, str]
    holdout: int = 0

    def show(self, bench: Workbench, context: str = "training") -> None:
        """By the digest of its pixels, and of its labels where they are read."""
        name = "noise" if "noise" in self.inputs else "images without labels" if self.given.labels is None else "real images"
        bench.tracker.dataset(name, self.given.uri, self.given.digest, context)

    def open(self, bench: Workbench, teacher: Teacher, student: Classifier) -> OpenedSource:
        """Move the images to the device, and ask the teacher about those that are held out."""
        trained, held_out = withhold(len(self.given.images), self.holdout)
        images, labels = self.given.images[trained], None if self.given.labels is None else self.given.labels[trained]
        pool = ImagePool(teacher.classifier.spec, bench.runtime.device, capacity=len(images))
        pool.append(images, labels)
        feed = PoolFeed(pool) if labels is None else LabelledFeed(pool)
        return OpenedSource(feed, len(pool), judge=self._judge(self.given.images[held_out], bench, teacher))

    def _judge(self, images: Tensor, bench: Workbench, teacher: Teacher) -> Judge | None:
        if not len(images):
            return None
        classifier = bench.runtime.place(teacher.classifier)
        answers = labeller_of(classifier.task).label(classifier, images)
        return judging(lambda: (images, answers))


def only_one(given: Mapping[str, object]) -> None:
    """Refuse more sources than one, and none.

    Args:
        given: name of a setting -> its value; None and "" are not given.

    Raises:
        ConfigError: names the settings.
    """
    chosen = [name for name, value in given.items() if value not in (None, "")]
    if len(chosen) != 1:
        raise ConfigError(f"A student trains on one source, not {' and '.join(chosen) or 'none'}: give exactly one of {', '.join(given)}.")


def open_reference_to(path: Path, teacher: Teacher) -> SetSource | RealSource:
    """The set, or the real images, that a folder's reference names.

    Raises:
        MissingResourceError: no such set, or no images there.
        CheckpointMismatchError: a set of another teacher, or other images than those that were referred to.
        ConfigError: images that do not fit the teacher.
        StoreError: another set than the one referred to, or damaged bytes.
    """
    reference = read_reference(path)
    if not is_of_images(path):
        return SetSource(open_reference(path, teacher.sha256), reference)
    facts, classifier = read_facts(path), teacher.classifier
    names = facts.classes or classifier.class_names
    found = GivenSource(real=load_given(reference.uri, classifier.spec, names, facts.labels))
    found.check_pinned(reference.sha256)
    return RealSource(found.images, found.inputs, facts.holdout)


def open_live(path: Path, statistics_path: Path | None, teacher: Teacher, ood: OodImages | None = None) -> LiveSource:
    """A synthesizer's bundle, or those of an ensemble; they say themselves by which method, with which settings, they were trained.

    Args:
        path: folder of the bundle, or of the folder that holds an ensemble's.
        statistics_path: the teacher's moments; None where the method needs none.
        teacher: in use.
        ood: images of another domain; None where the method needs none.

    Raises:
        ConfigError: the method needs moments and none are given.
        CheckpointMismatchError: a synthesizer or moments of another teacher.
        MissingResourceError: no bundle or statistics there.
        StoreError: damaged tensors.
    """
    states = [(folder, load_synthesizer(folder, teacher.sha256)) for folder in list_synthesizers(path)]
    first = states[0][1]
    plan = PlannedMethod.parse(first.method, first.config, statistics_path)
    inputs, made = plan.inputs(teacher), check_planned(states, plan, first.share.total)
    return LiveSource(plan, made, {**inputs, **made.inputs}, path, ood)


def open_planned_ood(section: OodSection, uri: str, teacher: Teacher) -> OodImages | None:
    """The images of another domain that a step was planned with, as they were then.

    Args:
        section: of the step.
        uri: where the run has them; a step that was planned without leaves them to the other steps.
        teacher: in use.

    Raises:
        ConfigError: none are given, or they do not fit the teacher.
        CheckpointMismatchError: others than the plan saw.
        MissingResourceError: there is nothing at the URI.
        StoreError: damaged bytes.
    """
    if not section.ood_sha256:
        return None
    if not uri:
        raise ConfigError(
            f"{spoken('synth_ood_uri')} is missing, but the run was planned with images of another domain: give the step what the plan was "
            "given."
        )
    found = load_ood(uri, teacher.classifier.spec)
    check_pinned(f"What lies at {uri!r}, images of another domain,", found.digest, section.ood_sha256)
    return found


def ood_inputs(ood: OodImages | None) -> dict[str, str]:
    """Their digest, as an input of a step that uses some."""
    return {"ood": ood.digest} if ood else {}


def show_ood(bench: Workbench, uri: str, ood: OodImages | None) -> None:
    """Tell the tracker of them."""
    if ood:
        bench.tracker.dataset("images of another domain", uri, ood.digest, "training")
