"""Turn somebody's checkpoint into a teacher bundle, once, before any pipeline."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillery.data.class_names import check_class_names
from distillery.data.real import LabelledImages, load_labelled
from distillery.evaluation.suspects import find_suspect
from distillery.grammar import counted
from distillery.models.bundle import count_parameters, save_classifier
from distillery.models.catalog import Architecture
from distillery.models.foreign import import_checkpoint
from distillery.provenance import Provenance, code_version, sha256_file
from distillery.statistics.layers import find_layers
from distillery.types import Classifier, ImageSpec

_BATCH = 256
_log = logging.getLogger(__name__)


def run(
    checkpoint: Path,
    architecture: Mapping[str, Any],
    spec: Mapping[str, Any],
    class_names: Sequence[str],
    out_folder: Path,
    check_data: str = "",
    weights: str = "",
) -> dict[str, Any]:
    """Import a teacher.

    Args:
        checkpoint: safetensors, or a file of torch.save that holds a state dict.
        architecture: name and arguments, as `Architecture` has them.
        spec: channels, height, width, mean and std, as `ImageSpec` has them.
        class_names: one a class, in the order of the logits.
        out_folder: where the bundle goes.
        check_data: labelled images to score the teacher on; "" scores nothing. The bundle does not depend on them.
        weights: which of several sets of weights to take, by the dotted beginning of their names; "" as `import_checkpoint` has it.

    Returns:
        sha256, parameters, batchnorm (how many visits of layers with moments), classes; with check data also images, top1 in [0, 1],
        and hint: what to check if top1 is near chance, else "".

    Raises:
        DistilleryError: whatever is wrong with the checkpoint, the data or the folder, in one sentence. Nothing is written then.
    """
    parsed = Architecture.parse(architecture, "architecture")
    image_spec = ImageSpec.parse(spec, "spec")
    names = check_class_names(class_names)
    data = load_labelled(check_data, names, image_spec) if check_data else None
    if data is not None:
        data.check(image_spec, len(names))
    classifier = import_checkpoint(Path(checkpoint), parsed, image_spec, names, weights)
    layers = find_layers(classifier)
    if layers.left_out:
        _log.warning(f"The teacher has {counted(len(layers.visits), 'layer')} with moments{layers.exceptions()}.")
    result: dict[str, Any] = {
        "parameters": count_parameters(classifier.network),
        "batchnorm": len(layers.visits),
        "classes": len(names),
    }
    if data is not None:
        answers = answer(classifier, data.images)
        top1 = float((answers == data.labels).double().mean())
        result |= {"images": len(data.images), "top1": top1}
        result["hint"] = accuracy_hint(classifier, data, answers)
        if result["hint"]:
            _log.warning(result["hint"])
    provenance = Provenance(inputs={"checkpoint": sha256_file(Path(checkpoint))}, code_version=code_version())
    return {"sha256": save_classifier(Path(out_folder), classifier, parsed, provenance, layers), **result}


@torch.no_grad()
def answer(classifier: Classifier, images: Tensor) -> Tensor:
    """The class (N,) int64 that a classifier sees in each image (N, C, H, W) uint8; logits are kept of one batch at a time."""
    return torch.cat([classifier(classifier.arrange(part.float() / 255)).argmax(1) for part in images.split(_BATCH)])


def accuracy_hint(classifier: Classifier, data: LabelledImages, answers: Tensor) -> str:
    """What to check where a teacher is near chance, or would do clearly better with a common mistake undone; else "".

    Args:
        classifier: in eval mode.
        data: that fits it.
        answers: (N,) what it says of them.
    """
    top1 = float((answers == data.labels).double().mean())
    hint = near_chance_hint(top1, classifier.num_classes, len(data.images))
    found = find_suspect(classifier, data.images, data.labels, answers)
    if found:
        return f"{hint or f'The teacher has a top-1 of {100 * top1:.1f} %'}, but {found.told()}"
    return f"{hint}; none of them alone explains it, so look at the checkpoint and the labels too." if hint else ""


def near_chance_hint(top1: float, num_classes: int, images: int) -> str:
    """The suspects where an accuracy is within a tenth of the way from chance to perfect, give or take two standard errors; else ""."""
    chance = 1 / num_classes
    if top1 > chance + 0.1 * (1 - chance) + 2 * math.sqrt(chance * (1 - chance) / max(1, images)):
        return ""
    return (
        f"The teacher's top-1 of {100 * top1:.1f} % is near chance ({100 * chance:.1f} %), for which the suspects are a wrong mean or std, "
        "the order of the channels (RGB or BGR), transposed pictures (height and width swapped) and the order of the class names"
    )
