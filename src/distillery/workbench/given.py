"""What a student is trained on that was there before its run: found where a plan or a command was told, and pinned by hash."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distillery.data.given import GivenImages, ImagesFacts, load_given, write_images_reference
from distillery.data.noise import is_noise
from distillery.data.reference import SetReference, find_set, write_reference
from distillery.data.store import SyntheticSet
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.host import spoken
from distillery.models.bundle import BundleInfo
from distillery.provenance import Provenance, check_pinned
from distillery.recipes.sections import SourceSection
from distillery.students.catalog import find_objective
from distillery.students.plan import StudentConfig, parse_objective


@dataclass(frozen=True)
class GivenSource:
    """A set or real images, whichever lies there; exactly one of the two is not None.

    Attributes:
        synthetic: a published set of the teacher.
        real: real images that fit it.
        classes: of the labels, where some are read.
        share: of real images, that is withheld from training.
    """

    synthetic: SyntheticSet | None = None
    real: GivenImages | None = None
    classes: tuple[str, ...] = ()
    share: float = 0.0

    @property
    def sha256(self) -> str:
        """Names them."""
        return self.synthetic.digest if self.synthetic else self.images.digest

    @property
    def images(self) -> GivenImages:
        """The real images, where they are some."""
        assert self.real is not None
        return self.real

    @property
    def uri(self) -> str:
        """Where they lie; of a reference, what it refers to."""
        return self.synthetic.store.uri if self.synthetic else self.images.uri

    @property
    def training(self) -> int:
        """How many images there are to train on."""
        return self.synthetic.manifest.images if self.synthetic else len(self.images.images) - self.holdout

    @property
    def holdout(self) -> int:
        """How many are withheld from training."""
        return self.synthetic.manifest.holdout if self.synthetic else round(self.share * len(self.images.images))

    @property
    def labelled(self) -> bool:
        """Whether a student sees true labels with them."""
        return self.real is not None and self.real.labels is not None

    @property
    def inputs(self) -> dict[str, str]:
        """The digest under the name by which provenance tells sets, labelled and unlabelled images and noise apart."""
        if self.real is not None and is_noise(self.uri):
            return {"noise": self.sha256}
        return {"set" if self.synthetic else "data" if self.labelled else "images": self.sha256}

    def check_pinned(self, sha256: str) -> None:
        """Refuse what is not what the plan saw.

        Raises:
            CheckpointMismatchError: names both.
        """
        check_pinned(f"What lies at {self.uri!r}", self.sha256, sha256)

    def section(self, info: BundleInfo) -> dict[str, object]:
        """What the step that opens them again is to find."""
        found = {"sha256": self.sha256, "is_set": self.synthetic is not None, "labels": self.labelled, "classes": self.others(info)}
        return {**found, "holdout": self.share}

    def others(self, info: BundleInfo) -> tuple[str, ...]:
        """The classes of their labels, where they are others than the teacher's."""
        return self.classes if self.labelled and self.classes != tuple(info.class_names) else ()

    def facts(self, info: BundleInfo) -> ImagesFacts:
        """What is known of real images."""
        found = self.images
        counts = () if found.labels is None else tuple(found.labels.bincount(minlength=len(self.classes)).tolist())
        said = {"counts": counts, "classes": self.others(info), "holdout": self.holdout}
        return ImagesFacts(sha256=found.digest, images=len(found.images), labels=self.labelled, **said)


def open_source(
    uri: str, info: BundleInfo, teacher_sha256: str, classes: Sequence[str], labels: bool, holdout: float = 0, must: bool = False
) -> GivenSource:
    """What lies at a URI.

    Args:
        uri: a published set, its manifest, a step's reference to one; real images as `load_given` reads them; or noise, `noise://COUNT`.
        info: of the teacher.
        teacher_sha256: of its bundle.
        classes: the student's.
        labels: read those of real images; noise has none.
        holdout: share of real images that is withheld from training.
        must: nothing can be done with real images without their labels.

    Raises:
        ConfigError: none is given, images that cannot be read or do not fit the teacher, or a set without images to train on.
        CheckpointMismatchError: a set of another teacher: its classes, held-out answers and quotas are that one's.
        MissingResourceError: nothing is there.
        StoreError: damaged bytes.
    """
    if not uri:
        field = spoken("images_uri")
        raise ConfigError(f"{field} is missing: give the set, or the folder of images, that the run is to work on.")
    found = find_set(uri)
    if found is None:
        real = load_given(uri, info.spec, classes, labels and not is_noise(uri), must)
        return _withheld(GivenSource(real=real, classes=tuple(classes), share=holdout), info)
    if holdout:
        raise ConfigError(
            f"data.holdout = {holdout:g} has no effect on the set {found.store.uri!r}, which withholds its own images since it was made: "
            "leave it out."
        )
    if found.manifest.teacher_sha256 != teacher_sha256:
        raise CheckpointMismatchError(
            f"The set {found.store.uri!r} was made with the teacher {found.manifest.teacher_sha256[:12]}, not with {teacher_sha256[:12]}, "
            "whose answers its held-out images and quotas are: use that teacher, or write its images with `distillery export` and give "
            "that folder, which this teacher then answers for."
        )
    found.check(info.spec)
    return GivenSource(synthetic=found)


def _withheld(found: GivenSource, info: BundleInfo) -> GivenSource:
    """The images, once their held-out share is one that can choose an epoch and leaves something to train on."""
    if not found.share:
        return found
    if found.others(info):
        raise ConfigError(
            f"data.holdout = {found.share:g} is not allowed with student.classes: the best epoch is the one that agrees best with the "
            "teacher, which knows other classes; leave it out."
        )
    if not found.holdout or not found.training:
        raise ConfigError(
            f"data.holdout = {found.share:g} of {len(found.images.images)} images at {found.uri!r} leaves {found.training} to train on and "
            f"{found.holdout} to choose the best epoch by: give more images or another share."
        )
    return found


def refer_to(found: GivenSource, info: BundleInfo, folder: Path, provenance: Provenance) -> None:
    """Write the reference that a step hands on: where they lie, and of real images what is known of them.

    Args:
        found: what is referred to.
        info: of the teacher.
        folder: for the reference.
        provenance: of who writes it.

    Raises:
        StoreError: the folder cannot be written.
    """
    if found.synthetic:
        write_reference(folder, SetReference(uri=found.uri, sha256=found.sha256))
    else:
        write_images_reference(folder, found.facts(info), found.uri, provenance)


def open_planned(section: SourceSection, uri: str, info: BundleInfo) -> GivenSource:
    """As `open_source`, and exactly what the plan saw.

    Raises:
        CheckpointMismatchError: other images or another set than then.
    """
    found = open_source(uri, info, section.teacher_sha256, section.classes or info.class_names, section.labels, section.holdout)
    found.check_pinned(section.sha256)
    return found


def wants_labels(student: StudentConfig, choice: str) -> bool:
    """Whether labels of real images are read.

    Args:
        student: whose objectives may look at them.
        choice: `data.labels` of the recipe.
    """
    objectives = [parse_objective(objective) for stage in student.stages for objective in stage.objectives]
    looked_at = any(one.takes_labels or "labels" in find_objective(one.name).required(one) for one in objectives)
    return choice == "read" or (choice == "auto" and looked_at)


def absolute(uri: str) -> str:
    """A path from the root on; a URI as it is."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())
