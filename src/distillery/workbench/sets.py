"""The synthetic set of a step: where it lies, how it is begun, and how it is published once the step's result is decided."""

from pathlib import Path

from distillery.data.manifest import MANIFEST, SetHeader, SetManifest
from distillery.data.publishing import publish_manifest
from distillery.data.reference import SetReference, write_reference
from distillery.data.shards import read_shard
from distillery.reporting.grid import image_grid
from distillery.storage import FolderStore, Store, join_uri
from distillery.workbench.assembly import Teacher
from distillery.workbench.bench import Workbench
from distillery.workbench.lineage import set_of


def open_set_store(bench: Workbench) -> Store:
    """Where this step's set lies, cleared of what killed writers left."""
    store = _set_store(bench)
    store.clean()
    return store


def set_header(bench: Workbench, teacher: Teacher, synthesizer_sha256: str = "") -> SetHeader:
    """What is known of this step's set before its first image."""
    classifier = teacher.classifier
    return SetHeader(
        shape=classifier.spec.shape,
        num_classes=classifier.num_classes,
        teacher_sha256=teacher.sha256,
        synthesizer_sha256=synthesizer_sha256,
        provenance=bench.provenance,
    )


def write_set(bench: Workbench, manifest: bytes, set_path: Path) -> None:
    """Write the manifest of a set that is whole but not yet published into the step's output, and show its images to the tracker."""
    FolderStore(set_path).write(MANIFEST, manifest)
    store = _set_store(bench)
    entries = SetManifest.from_bytes(manifest, f"The manifest of {store.uri!r}").shards
    shard = read_shard(store, next(entry for entry in entries if entry.role == "train"))
    bench.tracker.image("synthetic_images.png", image_grid(shard.images, shard.teacher_logits.argmax(1)))


def publish(bench: Workbench, set_path: Path, context: str) -> None:
    """Publish the set that the step's result names, write its reference for the next step, and tell the tracker of it.

    Only once the result is decided: so a set that is published is always that of the student and the synthesizer beside it.

    Raises:
        StoreError: another set is published there, or a shard is gone.
    """
    reference = publish_manifest(_set_store(bench), (set_path / MANIFEST).read_bytes())
    write_reference(set_path, reference)
    show_set(bench, reference, context)


def show_set(bench: Workbench, reference: SetReference, context: str) -> None:
    """Tell the tracker of a set that the step wrote or read, by its manifest."""
    bench.tracker.dataset("synthetic set", join_uri(reference.uri, MANIFEST), reference.sha256, context)


def _set_store(bench: Workbench) -> Store:
    return bench.store.below(set_of(bench.key))
