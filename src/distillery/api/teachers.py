"""Teachers and students as bundles: bring one in, read one."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from distillery.api.arguments import Place, as_mapping, as_text, class_names, located, new_folder
from distillery.api.process import plain_modes, undrawn, visiting
from distillery.api.progress import silent
from distillery.errors import ConfigError, DistilleryError
from distillery.grammar import with_article
from distillery.models.bundle import load_classifier as read_classifier
from distillery.models.bundle import local_bundle
from distillery.models.catalog import Architecture
from distillery.steps import import_teacher as step
from distillery.types import Classifier, ImageSpec


@dataclass(frozen=True)
class ImportedTeacher(os.PathLike[str]):
    """A teacher's bundle; stands for its folder wherever a path is taken.

    Attributes:
        folder: the bundle.
        sha256: names its bytes.
        parameters: how many weights it has.
        batchnorm: visits of layers with BatchNorm moments in a forward pass, which most methods need.
        classes: K.
        images: labelled ones that it was tried on; 0 for none.
        top1: share of them that it named right, in [0, 1]; None where it was tried on none.
        hint: what to look at if `top1` is near chance, else "".
    """

    folder: Path
    sha256: str
    parameters: int
    batchnorm: int
    classes: int
    images: int = 0
    top1: float | None = None
    hint: str = ""

    def __fspath__(self) -> str:
        return str(self.folder)

    def load(self) -> Classifier:
        """The teacher: images (N, C, H, W) float32 in [0, 1] in, logits (N, K) out; on the CPU, in eval mode."""
        return load_classifier(self.folder, self.sha256)


def import_teacher(
    weights: Place | nn.Module | Mapping[str, Tensor],
    architecture: str | Mapping[str, Any] | Architecture,
    spec: ImageSpec | Mapping[str, Any],
    classes: int | Sequence[str],
    out: Place,
    *,
    data: Place = "",
    prefix: str = "",
) -> ImportedTeacher:
    """Turn trained weights into a teacher: verified, hashed, with its own normalisation.

    The network is built anew from `architecture`, gets the weights, and is tried on random images as every step will run it. Whoever
    names a factory of their own here allows it for this call.

    Args:
        weights: a safetensors file or one of `torch.save`, a state dict, or the trained module itself, whose state dict is taken.
        architecture: `resnet34`, `wrn_40_2`, `torchvision:resnet50`, `timm:NAME` or `your.module:factory`; with arguments as
            `{"name": ..., "arguments": {...}}`.
        spec: channels, height and width of its images, and the mean and std (one a channel, of pixels in [0, 1]) that it was trained with.
        classes: names in the order of the logits, or how many there are.
        out: folder for the bundle; a bundle that stands there is replaced.
        data: labelled images (npz, npy, idx or CIFAR files, a folder a class) to try it on; "" for none.
        prefix: which of several sets of weights to take: the dotted beginning of their names, such as `ema.state_dict`.

    Returns:
        What was written.

    Raises:
        DistilleryError: whatever is wrong with weights, data or folder, in one sentence; nothing is written then.
    """
    named = {"name": architecture} if isinstance(architecture, str) else architecture
    folder, names = new_folder(out), class_names(classes)
    settings = named.to_json() if isinstance(named, Architecture) else as_mapping(named, "architecture")
    images = spec.to_json() if isinstance(spec, ImageSpec) else as_mapping(spec, "spec")
    with visiting(silent), _file_of(weights) as path:
        found = step.run(path, settings, images, names, folder, located(data, "data"), as_text(prefix, "prefix"))
    return ImportedTeacher(folder=folder, **found)


def load_classifier(bundle: Place, sha256: str = "") -> Classifier:
    """Read a student or a teacher, verified.

    Args:
        bundle: its folder, or its URI in a store.
        sha256: refuse any other bundle; "" takes what is there.

    Returns:
        Images (N, C, H, W) float32 in [0, 1] in, logits (N, K) out; on the CPU, in eval mode.

    Raises:
        MissingResourceError: there is no bundle.
        CheckpointMismatchError: another one than asked for, or weights that do not fit.
        StoreError: damaged weights.
        ConfigError: a network that cannot be built here, such as one of a module that nobody allowed (`allow_modules`).
    """
    with bundle_at(bundle, sha256) as folder, undrawn(), plain_modes():
        return read_classifier(folder, sha256).eval()


@contextmanager
def bundle_at(bundle: Place, sha256: str = "", what: str = "bundle") -> Iterator[Path]:
    """The folder of a bundle; one that lies in a store is copied into a temporary folder, verified.

    Args:
        bundle: a folder, or a URI in a store.
        sha256: refuse any other bundle; "" takes what is there.
        what: the argument's name, for messages.

    Raises:
        MissingResourceError: there is no bundle.
        CheckpointMismatchError: another bundle than asked for.
        StoreError: the store cannot be read, or the weights fail their hash.
    """
    if not (uri := located(bundle, what)):
        raise ConfigError(f"{what} = '' names no bundle: give its folder, or its URI in a store.")
    with local_bundle(uri, sha256) as folder:
        yield folder


@contextmanager
def _file_of(weights: Place | nn.Module | Mapping[str, Tensor]) -> Iterator[Path]:
    """The weights as a file; what only lives in memory is written into a temporary one, which no message names."""
    if isinstance(weights, str | os.PathLike):
        yield Path(located(weights, "weights"))
        return
    if isinstance(weights, Classifier):
        weights = weights.network
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    if not isinstance(state, Mapping):
        raise ConfigError(f"weights is {with_article(type(weights).__name__)}: give a file, a state dict or a module.")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        torch.save(dict(state), path)
        try:
            yield path
        except DistilleryError as error:  # of a file that the caller never saw
            raise type(error)(str(error).replace(repr(str(path)), "The state dict")) from None
