"""Which real images a student comes from, as far as its files say it: who uses some is never told to use none."""

from collections.abc import Mapping
from typing import Any

from distillery.config import Config
from distillery.data.manifest import synthesizers_in
from distillery.methods.catalog import METHODS
from distillery.provenance import Provenance

_MADE_UP = {"teacher", "statistics", "set", "noise"}
"""Inputs of a training that are no images, that are noise, or a set whose own inputs are looked at."""
_WORDS = {"set": "its synthetic set", "start": "the set that its pool began with", "student_start": "the weights that it began with"}
_LABELLED, _UNLABELLED, _OTHER_DOMAIN, _PER_CLASS = "data", "images", "ood", "per_class"


class RealImages(Config):
    """What is known of them.

    Attributes:
        labelled: the student was trained on labelled real images.
        unlabelled: it was trained on images that were given without labels; nobody here knows that they are not real.
        other_domain: it was trained, or its images were made, with real images of another domain.
        class_statistics: the teacher's moments were measured on labelled real images, class by class.
        unknown: inputs of which nobody here knows what images they hold, such as a set from elsewhere; `set` where it was not found.
    """

    labelled: bool = False
    unlabelled: bool = False
    other_domain: bool = False
    class_statistics: bool = False
    unknown: tuple[str, ...] = ()

    @property
    def none(self) -> bool:
        """Whether the student was certainly shown no real image."""
        return not (self.labelled or self.unlabelled or self.other_domain or self.unknown)


def find_real_images(
    student: Provenance,
    drawn: Provenance | None,
    sections: Mapping[str, Any] | None = None,
    started: Provenance | None = None,
    begun: Provenance | None = None,
) -> RealImages:
    """Look for real images in what a student was made from.

    Args:
        student: where its bundle comes from.
        drawn: where the set that it was trained on comes from; None where that was not found.
        sections: of the run's plan, where there is one.
        started: where the set comes from that the pool began with; None where it began empty, or that set was not found.
        begun: where the weights come from that the student began with; None where it began anew, or they were not found.
    """
    made = [student] if drawn is None else [student, drawn]
    inputs = {name for origin in made for name in origin.inputs}
    if started is not None:
        made.append(started)
        inputs = inputs - {"start"} | set(started.inputs)  # that set may itself have begun with one
    if begun is not None:
        inputs = _with_weights(inputs, student, begun)
    moments = (sections or {}).get("statistics", {})
    unknown = inputs - _MADE_UP - synthesizers_in(dict.fromkeys(inputs, "")).keys() - {_LABELLED, _UNLABELLED, _OTHER_DOMAIN}
    if "set" in student.inputs and drawn is None:
        unknown.add("set")
    return RealImages(
        labelled=_LABELLED in inputs,
        unlabelled=_UNLABELLED in inputs,
        other_domain=_OTHER_DOMAIN in inputs or any(map(_needs_some, made)),
        class_statistics=moments.get("kind") == _PER_CLASS and moments.get("measured_on") != "set",
        unknown=tuple(sorted(unknown)),
    )


def _with_weights(inputs: set[str], student: Provenance, begun: Provenance) -> set[str]:
    """The inputs with those of the weights that a student began with; these stay unknown where they name more than images known here."""
    images = {_LABELLED, _UNLABELLED, _OTHER_DOMAIN}
    looked_at = images | {"teacher", "noise"} | ({"set"} if begun.inputs.get("set") == student.inputs.get("set", "") else set())
    known = {"student_start"} if looked_at.issuperset(begun.inputs) else set()
    return inputs - known | images.intersection(begun.inputs)


def _needs_some(origin: Provenance) -> bool:
    """Whether the method that made a set is one that learns from images of another domain, with the settings that it had."""
    row = METHODS.get(str(origin.config.get("method", "")))
    weight = row.needs.get("ood") if row else None
    if weight is None:
        return False
    return not weight or bool(dict(origin.config.get("method_config", {})).get(weight, True))


def tell_real_images(found: RealImages | None) -> list[str]:
    """What a reader is told of them, in sentences; nothing where nothing is known.

    Args:
        found: None where nobody looked.
    """
    if found is None:
        return []
    told = []
    if found.labelled:
        told.append("The student was trained on real images with their labels.")
    if found.unlabelled:
        told.append(
            "The student was trained on images that were given, read without labels; they count as real, for nobody here made them."
        )
    if found.other_domain:
        told.append("Real images of another domain than the teacher's, out-of-distribution (OOD) ones, were used.")
    if found.unknown:
        told.append(
            f"Whether real images are among its inputs is not known here: {', '.join(_WORDS.get(name, name) for name in found.unknown)}."
        )
    if found.none:
        told.append("The student was shown no real image: it learned from the teacher's answers to images that were made up.")
    if found.class_statistics:
        told.append("The teacher's statistics were measured class by class on real labelled images, by whoever owns them.")
    return told
