"""A classifier on disk: weights.safetensors and bundle.json in one folder, published whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from distillery.config import Config
from distillery.documents import Format
from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError, StoreError
from distillery.foreign_code import guarded
from distillery.models.catalog import Architecture, build_network
from distillery.models.versions import Weights
from distillery.provenance import Provenance, sha256_bytes, sha256_file
from distillery.statistics.layers import Layers, find_layers
from distillery.storage import open_store
from distillery.types import Classifier, ImageSpec, MemoryFormat, Task

FORMAT = Format("distillery-bundle", 4, "fetch it or import the teacher again")
"""1 has no `document_sha256`, 2 no `memory_format` and 3 no `task`; all are read as before."""
WEIGHTS = "weights.safetensors"
DOCUMENT = "bundle.json"


class BundleInfo(Config):
    """What bundle.json says, besides format, version, seal and provenance.

    Attributes:
        architecture: the network, rebuilt from it.
        spec: shape and normalisation of its images.
        class_names: one a class, in the order of the logits.
        parameters: how many weights it has.
        has_batchnorm: whether a forward pass visits a layer with moments, see `find_layers`, which methods that match moments need.
        weights_sha256: of weights.safetensors.
        weights_bytes: size of weights.safetensors.
        memory_format: order in memory of the images that it takes.
        task: what it answers.
    """

    architecture: Architecture
    spec: ImageSpec
    class_names: tuple[str, ...] = Field(min_length=2)
    parameters: int = Field(ge=0)
    has_batchnorm: bool
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    weights_bytes: int = Field(ge=0)
    memory_format: MemoryFormat = "channels_last"
    task: Task = "classification"

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)


def count_parameters(module: nn.Module) -> int:
    """How many trainable or frozen weights a module has; BatchNorm's running statistics are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def save_classifier(
    folder: Path, classifier: Classifier, architecture: Architecture, provenance: Provenance, layers: Layers | None = None
) -> str:
    """Write a bundle; equal classifiers of equal origin give equal bytes.

    Args:
        folder: where it will stand. What stood there is replaced if it is a bundle or empty, and refused otherwise.
        classifier: the network, its images and its class names.
        architecture: what `build_network` rebuilds the network from.
        provenance: where the weights come from.
        layers: of the network, as `find_layers` gives them, where that was asked already.

    Returns:
        The bundle's sha256: that of bundle.json, which holds that of the weights.

    Raises:
        StoreError: the folder cannot be written, or holds something else.
        ConfigError: the network keeps state that is no tensor, or fails on its images.
    """
    weights = save(_tensors(classifier.network))
    info = BundleInfo(
        architecture=architecture,
        spec=classifier.spec,
        class_names=classifier.class_names,
        parameters=count_parameters(classifier.network),
        has_batchnorm=bool((layers or find_layers(classifier)).visits),
        weights_sha256=sha256_bytes(weights),
        weights_bytes=len(weights),
        memory_format=classifier.memory_format,
        task=classifier.task,
    )
    document = _written(info, provenance)
    publish(folder, {WEIGHTS: weights, DOCUMENT: document})
    return sha256_bytes(document)


def read_bundle(folder: Path) -> tuple[BundleInfo, str]:
    """Read bundle.json without touching the weights.

    Returns:
        What it says, and the bundle's sha256.

    Raises:
        MissingResourceError: there is no bundle.
        CheckpointMismatchError: another format, or a newer version.
        StoreError: bundle.json is damaged.
    """
    data = _read(folder, DOCUMENT)
    return _parse(data, str(folder / DOCUMENT)), sha256_bytes(data)


def read_origin(folder: Path) -> Provenance:
    """What a bundle was made from; raises as `read_bundle` does."""
    return FORMAT.read(_read(folder, DOCUMENT), str(folder / DOCUMENT)).provenance


def load_classifier(folder: Path, expected_sha256: str = "") -> Classifier:
    """Read a bundle whole: verify it, build the network, load its weights. The classifier is on the CPU, in train mode, not frozen.

    Args:
        folder: the bundle.
        expected_sha256: refuse any other bundle; "" takes what is there.

    Raises:
        MissingResourceError: there is no bundle.
        CheckpointMismatchError: another bundle than expected, a newer version, or weights that do not fit the architecture.
        StoreError: the weights fail their hash.
        ConfigError: the architecture cannot be built here.
    """
    return VerifiedBundle(folder, expected_sha256).load()


class VerifiedBundle:
    """A bundle that is opened once: its document is read at once, its weights when they are first asked for, and each is verified.

    Args:
        folder: the bundle.
        expected_sha256: refuse any other bundle; "" takes what is there.

    Attributes:
        folder: where it lies.
        info: what its document says.
        sha256: of its document, which names that of its weights.

    Raises:
        MissingResourceError: there is no bundle.
        CheckpointMismatchError: another bundle than expected, or a newer version.
        StoreError: the document is damaged.
    """

    def __init__(self, folder: Path, expected_sha256: str = "") -> None:
        self.folder = folder
        self.info, self.sha256 = read_bundle(folder)
        if expected_sha256 and self.sha256 != expected_sha256:
            raise CheckpointMismatchError(
                f"The bundle {str(folder)!r} has sha256 {self.sha256}, but {expected_sha256} was asked for: give that one, or pin the one "
                "you have."
            )

    @cached_property
    def classifier(self) -> Classifier:
        """The network, frozen, on the CPU; raises as `load` does."""
        return self.load().freeze()

    def verify(self) -> None:
        """Look at the weights without building the network.

        Raises:
            MissingResourceError: there are none.
            StoreError: they fail their hash.
        """
        try:
            found = sha256_file(self.folder / WEIGHTS)
        except OSError:
            _read(self.folder, WEIGHTS)
            raise
        if found != self.info.weights_sha256:
            raise StoreError(
                f"The weights {str(self.folder / WEIGHTS)!r} fail their sha256, so they are damaged: fetch, import or train them again."
            )

    def load(self) -> Classifier:
        """Verify the weights, build the network and load them: a classifier of its own, in train mode, not frozen.

        Raises:
            StoreError: the weights fail their hash.
            CheckpointMismatchError: they do not fit the architecture.
            ConfigError: the architecture cannot be built here.
        """
        info, folder, name = self.info, self.folder, self.info.architecture.name
        tensors = _verified(_read(folder, WEIGHTS), info, str(folder / WEIGHTS))
        network = build_network(info.architecture, info.spec, info.num_classes)
        try:
            with guarded(f"{name} does not take the weights of {str(folder)!r}", "import them again"):
                network.load_state_dict(Weights.written_by(network, tensors))
        except ConfigError as error:
            raise CheckpointMismatchError(
                f"The weights of {str(folder)!r} do not fit {name} as this code builds it: import the teacher again."
            ) from error
        return Classifier(network, info.spec, info.class_names, info.memory_format, info.task)


def fetch_bundle(uri: str, folder: Path) -> Path:
    """Make a bundle local.

    Args:
        uri: a local path or file:// URI, returned as it is; or a store's URI, copied and verified.
        folder: the copy goes below it, into a folder named by the bundle's sha256; one that is there already is not fetched again.

    Returns:
        The bundle's local folder.

    Raises:
        MissingResourceError: there is no bundle.
        StoreError: the store cannot be read, or the weights fail their hash.
        ConfigError: a URI of a kind that is not supported.
    """
    if "://" not in uri:
        return Path(uri).expanduser()
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path))
    store = open_store(uri)
    document = store.read(DOCUMENT)
    info = _parse(document, f"{uri}/{DOCUMENT}")
    target = folder / sha256_bytes(document)
    if not _has(target, document, info):
        weights = store.read(WEIGHTS)
        _verified(weights, info, f"{uri}/{WEIGHTS}")
        publish(target, {WEIGHTS: weights, DOCUMENT: document})
    return target


@contextmanager
def local_bundle(uri: str, sha256: str = "") -> Iterator[Path]:
    """The folder of a bundle; one that lies in a store is copied into a temporary folder, verified.

    Args:
        uri: a folder, or a URI in a store.
        sha256: refuse any other bundle; "" takes what is there.

    Raises:
        MissingResourceError: there is no bundle.
        CheckpointMismatchError: another bundle than asked for.
        StoreError: the store cannot be read, or the weights fail their hash.
    """
    with TemporaryDirectory() as folder:
        path = fetch_bundle(uri, Path(folder))
        found = read_bundle(path)[1]
        if sha256 not in ("", found):
            raise CheckpointMismatchError(f"The bundle {uri!r} has sha256 {found}, but {sha256} was asked for: give that one, or its hash.")
        yield path


def publish(folder: Path, files: Mapping[str, bytes], document: str = DOCUMENT, what: str = "bundle") -> None:
    """Write the files beside the folder, flush them, and rename them into place together.

    Args:
        folder: where they will stand, as a whole; what stood there is replaced if it is of the same kind or empty.
        files: name -> content, all on one level.
        document: the file that tells what kind of folder it is.
        what: the kind in words, for messages.

    Raises:
        StoreError: the folder cannot be written, or holds something else.
    """
    try:
        present = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        if present and document not in present:
            raise StoreError(f"{str(folder)!r} holds {present[0]!r} and no {what}: name an empty or a new folder.")
        if present == sorted(files) and all((folder / name).read_bytes() == data for name, data in files.items()):
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(folder) as fresh:
            for name, data in files.items():
                _write(fresh / name, data)
            _flush(fresh)
            _move(fresh, folder, replace=bool(present))
            _flush(folder.parent)
    except OSError as error:
        raise StoreError(f"Cannot write the {what} {str(folder)!r}: {error.strerror}; choose a folder that can be written.") from error


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Contiguous copies on the CPU: safetensors refuses tensors that share memory, and channels-last order must not enter the bytes."""
    state = network.state_dict()
    other = sorted(name for name, value in state.items() if not isinstance(value, Tensor))
    if other:
        raise ConfigError(f"The network's state {other[0]!r} is no tensor, so it cannot be stored: keep it as a buffer.")
    return {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise MissingResourceError(
            f"There is no bundle at {str(folder)!r} ({name} is missing): give a folder that `distillery import-teacher` wrote."
        ) from None
    except OSError as error:
        raise StoreError(f"Cannot read {str(path)!r}: {error.strerror}; check its permissions.") from error


def _has(folder: Path, document: bytes, info: BundleInfo) -> bool:
    """Whether a bundle lies in a folder, whole: a copy that was damaged is fetched again."""
    present = all((folder / name).is_file() for name in (DOCUMENT, WEIGHTS))
    return present and (folder / DOCUMENT).read_bytes() == document and sha256_file(folder / WEIGHTS) == info.weights_sha256


def _written(info: BundleInfo, provenance: Provenance) -> bytes:
    fields = info.to_json()
    if fields["task"] == "classification":
        del fields["task"]  # as before there were tasks: equal teachers keep their hash, and with it every key that it is in
        return replace(FORMAT, version=3).write(provenance, fields)
    return FORMAT.write(provenance, fields)


def _parse(data: bytes, where: str) -> BundleInfo:
    return FORMAT.read(data, where).parse(BundleInfo)


def _verified(weights: bytes, info: BundleInfo, where: str) -> dict[str, Tensor]:
    if sha256_bytes(weights) != info.weights_sha256:
        raise StoreError(
            f"{where} is damaged: it has {len(weights)} bytes that fail their sha256, bundle.json promises {info.weights_bytes} bytes "
            f"that pass; fetch it or import the teacher again."
        )
    try:
        return load(weights)
    except SafetensorError as error:
        raise StoreError(f"{where} is no safetensors file: import the teacher again.") from error


def _move(fresh: Path, folder: Path, replace: bool) -> None:
    if not replace:
        fresh.rename(folder)
        return
    aside = fresh.with_name(f"{fresh.name}-old")  # no portable call swaps two folders
    folder.rename(aside)
    try:
        fresh.rename(folder)
    except BaseException:  # SystemExit as well: SIGTERM must leave the old bundle
        aside.rename(folder)
        raise
    shutil.rmtree(aside)


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    fresh = folder.parent / f".tmp-{secrets.token_hex(8)}"
    fresh.mkdir()
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
