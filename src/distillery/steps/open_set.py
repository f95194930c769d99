"""The step that opens the images which a run works on, where no step makes them: a published set, or real ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.data.given import write_facts
from distillery.data.manifest import MANIFEST
from distillery.errors import CheckpointMismatchError
from distillery.models.bundle import fetch_bundle, read_bundle
from distillery.recipes.sections import SourceSection
from distillery.step_table import SetFolder
from distillery.storage import FolderStore
from distillery.workbench.bench import reporting, workbench, workspace
from distillery.workbench.given import open_planned, refer_to

STEP = "open_set"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads.

    Attributes:
        teacher_uri: the teacher's bundle, which says what images have to be like.
        images_uri: a published set, or real images.
    """

    teacher_uri: str
    images_uri: str


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes: the reference to a set or to real images, and what is known of them."""

    set: SetFolder


@reporting(STEP)
def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Refer to a set whose every shard is whole, or to real images that are those of the plan; neither is copied.

    Args:
        section: a `SourceSection` as JSON.
        inputs: what it reads.
        outputs: where it writes.

    Returns:
        `images` to train on, and `holdout`, those withheld.

    Raises:
        ConfigError: images that do not fit the teacher.
        CheckpointMismatchError: another teacher, set or images than the plan saw.
        MissingResourceError: nothing is there, or a shard is missing.
        StoreError: damaged bytes, or a reference that cannot be written.
    """
    parsed = SourceSection.parse(section, "source")
    info, sha256 = read_bundle(fetch_bundle(inputs.teacher_uri, workspace() / "bundles"))
    if sha256 != parsed.teacher_sha256:
        raise CheckpointMismatchError(
            f"The teacher {inputs.teacher_uri!r} has sha256 {sha256[:12]}, but the run was planned with {parsed.teacher_sha256[:12]}: "
            "give that one, or plan the run again."
        )
    found = open_planned(parsed, inputs.images_uri, info)
    with workbench(STEP, parsed, {"teacher": sha256, **found.inputs}) as bench:
        numbers = {"images": float(found.training), "holdout": float(found.holdout)}

        def keep() -> dict[str, float]:
            if found.synthetic:
                found.synthetic.verify()
                FolderStore(outputs.set).write(MANIFEST, found.synthetic.store.read(MANIFEST))
            else:
                write_facts(outputs.set, found.facts(info), bench.provenance)
            bench.progress.write("images", found.training, found.training, {})
            return numbers

        return bench.do(vars(outputs), keep, lambda: refer_to(found, info, outputs.set, bench.provenance))
