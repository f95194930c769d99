"""What a method's row asks for besides the teacher, made up: moments, those of all classes or of each, and images of another domain."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from distillery.data.pool import ImagePool
from distillery.methods.catalog import Need
from distillery.provenance import Provenance
from distillery.statistics.extract import global_moments
from distillery.statistics.moments import Moments, save_moments
from distillery.types import Classifier, ImageSpec

OTHERS = 64
"""Images of another domain: as many as the largest batch of a test."""


def moments_needed(needs: Collection[Need], teacher: Classifier, sha256: str) -> Moments | None:
    """The teacher's moments where they are needed; those of a class are the global ones, moved away from each other class's."""
    if {"moments", "class_moments"}.isdisjoint(needs):
        return None
    whole = global_moments(teacher, sha256)
    if "class_moments" not in needs:
        return whole
    classes = torch.arange(teacher.num_classes)
    alike, apart = whole.select(classes), (1 + 0.1 * classes).unsqueeze(1)
    mean, variance = ({key: value * apart for key, value in values.items()} for values in (alike.mean, alike.variance))
    return replace(alike, mean=mean, variance=variance, counts=torch.full_like(classes, 500))


def others_needed(needs: Collection[Need], spec: ImageSpec) -> ImagePool | None:
    """Images of another domain where they are needed."""
    if "ood" not in needs:
        return None
    pool = ImagePool(spec)
    pool.append(torch.from_numpy(_noise(spec)))
    return pool


def form_needed(needs: Collection[Need], teacher: Classifier, sha256: str, folder: Path) -> dict[str, str]:
    """The fields of a run form that meet the needs which a run does not meet by itself.

    Args:
        needs: of the method under its settings.
        teacher: that it runs on.
        sha256: of the teacher's bundle.
        folder: where the files go that the fields name.
    """
    form = {}
    if "class_moments" in needs and (moments := moments_needed(needs, teacher, sha256)):
        form["synth_statistics_uri"] = str(folder / "classes.safetensors")
        measured = Provenance(inputs={"teacher": sha256, "data": "0" * 64}, code_version="0" * 64)
        save_moments(folder / "classes.safetensors", moments, measured)
    if "ood" in needs:
        form["synth_ood_uri"] = str(folder / "noise.npz")
        np.savez(folder / "noise.npz", images=_noise(teacher.spec))
    return form


def _noise(spec: ImageSpec) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (OTHERS, *spec.shape), dtype=np.uint8)
