"""Images of every class, which moments of classes are measured on: labelled real ones, or those of a synthetic set."""

import logging
from dataclasses import dataclass

from torch import Tensor

from distillery.data.reference import open_set
from distillery.errors import ConfigError
from distillery.storage import join_uri
from distillery.workbench.assembly import Teacher
from distillery.workbench.bench import Workbench
from distillery.workbench.sources import open_real

STABLE_IMAGES = 300
"""Images of a class below which its moments still depend on which images they are: see docs/guides/statistics.md."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ClassImages:
    """Images and their classes.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64 in [0, K).
        inputs: their digest, as a step names it among its inputs: of `data`, real images, or of a `set`.
        uri: where they lie.
    """

    images: Tensor
    labels: Tensor
    inputs: dict[str, str]
    uri: str

    def show(self, bench: Workbench) -> None:
        """Tell the tracker of them."""
        ((name, digest),) = self.inputs.items()
        kind = "real images" if name == "data" else "synthetic set"
        bench.tracker.dataset(kind, self.uri, digest, "statistics")

    def warn(self, class_names: tuple[str, ...]) -> None:
        """Name the classes that have too few images for stable moments."""
        counts = self.labels.bincount(minlength=len(class_names)).tolist()
        few = [f"{name} ({count})" for name, count in zip(class_names, counts, strict=True) if 0 < count < STABLE_IMAGES]
        if few:
            named = ", ".join(few[:10]) + (f" and {len(few) - 10} more" if len(few) > 10 else "")
            logger.warning(
                "Classes with fewer than %d images, whose moments still depend on which images they are: %s; give more of them.",
                STABLE_IMAGES,
                named,
            )


def open_class_images(data_uri: str, set_uri: str, teacher: Teacher) -> ClassImages:
    """Images of every class, from one of two places.

    A synthetic image is of the class that the teacher names it as, not of the one it was asked for: quotas of a set count that one too, and
    the moments are to say what the teacher's layers see where it sees that class.

    Args:
        data_uri: labelled real images; "" for none.
        set_uri: a set of this teacher, or a folder with the reference to one; "" for none.
        teacher: in use.

    Raises:
        CheckpointMismatchError: a set of another teacher.
        ConfigError: both are given; images that do not fit the teacher, or a set without any, without those of a class, or
            of a segmenter.
        MissingResourceError: nothing there.
        StoreError: damaged bytes.
    """
    if data_uri and set_uri:
        raise ConfigError(f"Moments of classes are measured on one source, not on {data_uri!r} and {set_uri!r}: give one of them.")
    if data_uri:
        real = open_real(data_uri, teacher)
        assert real.given.labels is not None, "they are opened with their labels"
        return ClassImages(real.given.images, real.given.labels, real.inputs, data_uri)
    found = open_set(set_uri, teacher.sha256)
    found.check(teacher.classifier.spec)
    shard = found.load("train")
    if shard.teacher_logits.ndim != 2:
        raise ConfigError(f"The images of the set at {set_uri!r} have no class each: moments of classes are those of a classifier.")
    named = shard.teacher_logits.argmax(dim=1)
    counts = named.bincount(minlength=teacher.classifier.num_classes).tolist()
    if empty := [name for name, count in zip(teacher.classifier.class_names, counts, strict=True) if not count]:
        raise ConfigError(
            f"The set at {set_uri!r} holds no image that the teacher names as class {', '.join(empty[:5])}: make one that does, with more "
            "steps of the method or a larger set.max_oversampling."
        )
    return ClassImages(shard.images, named, {"set": found.digest}, join_uri(found.store.uri, "manifest.json"))
