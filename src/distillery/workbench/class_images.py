"""Images of every class, which moments of classes are measured on: labelled real ones, or those of a synthetic set."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from distillery.data.noise import is_noise
from distillery.errors import ConfigError
from distillery.models.bundle import BundleInfo, VerifiedBundle
from distillery.statistics.counts import STABLE_IMAGES, check_every_class, few
from distillery.step_table import SetFolder
from distillery.workbench.assembly import Teacher
from distillery.workbench.given import GivenSource, open_source
from distillery.workbench.sources import RealSource, SetSource, open_reference_to

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ClassImages:
    """Images and their classes.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64 in [0, K).
        source: where they were found.
    """

    images: Tensor
    labels: Tensor
    source: SetSource | RealSource


def open_class_images(path: SetFolder, teacher: Teacher) -> ClassImages:
    """Images of every class, by the reference to a set or to labelled images.

    A synthetic image is of the class that the teacher names it as, not of the one it was asked for: quotas of a set count that one too, and
    the moments are to say what the teacher's layers see where it sees that class.

    Args:
        path: of the reference.
        teacher: in use.

    Raises:
        CheckpointMismatchError: a set of another teacher, or other images than those that were referred to.
        ConfigError: images that do not fit the teacher or have no labels, or a set without any, without those of a class, or of a
            segmenter.
        MissingResourceError: nothing there.
        StoreError: damaged bytes.
    """
    source = open_reference_to(path, teacher)
    if isinstance(source, RealSource):
        if source.given.labels is None:
            raise ConfigError(f"The images at {source.given.uri!r} were opened without labels: moments of classes need those.")
        return ClassImages(source.given.images, source.given.labels, source)
    source.synthetic.check(teacher.classifier.spec)
    shard, uri = source.synthetic.load("train"), source.synthetic.store.uri
    if shard.teacher_logits.ndim != 2:
        raise ConfigError(f"The images of the set at {uri!r} have no class each: moments of classes are those of a classifier.")
    named = shard.teacher_logits.argmax(dim=1)
    counts = named.bincount(minlength=teacher.classifier.num_classes).tolist()
    _check_set(counts, uri, teacher.classifier.class_names)
    return ClassImages(shard.images, named, source)


def _check_set(counts: Sequence[int], uri: str, class_names: Sequence[str]) -> None:
    """Refuse a set that leaves a class out.

    Raises:
        ConfigError: names the first five such classes.
    """
    if empty := [name for name, count in zip(class_names, counts, strict=True) if not count]:
        raise ConfigError(
            f"The set at {uri!r} holds no image that the teacher names as class {', '.join(empty[:5])}: make one that does, with more "
            "steps of the method or a larger set.max_oversampling."
        )


def check_measurable(info: BundleInfo) -> None:
    """Refuse a teacher that has no statistics of each class.

    Raises:
        ConfigError: it segments, or has no BatchNorm2d.
    """
    if info.task != "classification":
        raise ConfigError(
            f"Statistics of each class are those of a classifier, and the teacher is one of {info.task}: give another teacher."
        )
    if not info.has_batchnorm:
        raise ConfigError(
            f"The teacher {info.architecture.name!r} has no BatchNorm2d layer with running statistics, so it holds no moments: give "
            "another teacher, or use a method that needs none."
        )


def open_measured(uri: str, teacher: VerifiedBundle) -> GivenSource:
    """What moments of each class are to be measured on; classes with few images are warned of.

    Args:
        uri: labelled images, or a set of the teacher.
        teacher: in use.

    Raises:
        ConfigError: a teacher as `check_measurable` refuses it, noise, images without labels or that do not fit the teacher, or a class
            without any.
        CheckpointMismatchError: a set of another teacher.
        MissingResourceError: nothing is there.
        StoreError: damaged bytes.
    """
    check_measurable(teacher.info)
    if is_noise(uri):
        raise ConfigError(f"{uri!r} is not allowed here: noise shows no class of the teacher; give labelled images, or a set.")
    names = teacher.info.class_names
    found = open_source(uri, teacher.info, teacher.sha256, names, labels=True, must=True)
    if found.synthetic:
        counts = found.synthetic.manifest.counts
        _check_set(counts, found.uri, names)
    else:
        counts = found.facts(teacher.info).counts
        check_every_class(counts, names)
    warn_of_few(counts, names)
    return found


def warn_of_few(counts: Sequence[int], class_names: Sequence[str]) -> None:
    """Name the classes that have too few images for stable moments.

    Args:
        counts: images of each class.
        class_names: in the same order.
    """
    if named := few(counts, class_names):
        logger.warning(
            "Classes with fewer than %d images, whose moments still depend on which images they are: %s; give more of them.",
            STABLE_IMAGES,
            named,
        )
