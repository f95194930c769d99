"""The step that fills a synthetic set from a trained synthesizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.data.store import MANIFEST, SetHeader, SetReference, SyntheticSet, read_reference, write_reference
from distillery.engine.materialize import Materializer, check_size
from distillery.engine.session import Session
from distillery.errors import CheckpointMismatchError
from distillery.recipes.schema import MaterializeSection
from distillery.steps.assembly import PlannedMethod, Teacher, open_teacher
from distillery.steps.grid import image_grid
from distillery.steps.review import Reviewer
from distillery.steps.workbench import Workbench, reporting, workbench
from distillery.storage import Store, join_uri
from distillery.synthesis.bundle import load_synthesizer, read_synthesizer

STEP = "materialize"


@reporting(STEP)
def run(section: Mapping[str, Any], teacher_uri: str, statistics_path: Path, synthesizer_path: Path, set_path: Path) -> dict[str, float]:
    """Draw images until every class has its quota, and publish them as a set.

    Args:
        section: a `MaterializeSection` as JSON.
        teacher_uri: the teacher's bundle, a folder or a URI.
        statistics_path: the teacher's moments; not read by a method that needs none.
        synthesizer_path: folder of the trained synthesizer.
        set_path: folder for the set's reference; the set itself goes to the store.

    Returns:
        `images`, `holdout`, `drawn`, `shortfall`, and, where classes were asked for, `asked_agreement` over all raw images and
        `set_agreement` over those kept; `health/` numbers of the set.

    Raises:
        ConfigError: settings that are not allowed, or a shortfall or a collapsed set under `strict`.
        CheckpointMismatchError: another teacher, moments or a synthesizer of another one, or a synthesizer of another method.
        MissingResourceError: an input that is not there.
        StoreError: damaged bytes, or a store that cannot be written.
    """
    parsed = MaterializeSection.parse(section, "materialize")
    plan = PlannedMethod.parse(parsed.method, parsed.method_config, statistics_path)
    teacher = open_teacher(parsed, teacher_uri)
    check_size(parsed.set, teacher.classifier.spec)
    made = load_synthesizer(synthesizer_path, teacher.sha256)
    if (made.method, made.config) != (plan.name, plan.config.to_json()):
        raise CheckpointMismatchError(
            f"The synthesizer at {str(synthesizer_path)!r} was trained by {made.method} with other settings than this plan's {plan.name}: "
            "train a generator with this recipe."
        )
    inputs = {**plan.inputs(teacher), "synthesizer": read_synthesizer(synthesizer_path)[1]}
    outputs = {"set": set_path}
    with workbench(STEP, parsed, inputs) as bench:
        if (done := bench.finished(outputs)) is not None:
            show_set(bench, read_reference(set_path), "synthesis")
            return done
        synthesizer = plan.build(teacher, bench.runtime, parsed.seed)
        synthesizer.load_state_dict(made.state)
        store = open_set_store(bench)
        materializer = Materializer(parsed.set, synthesizer, teacher.classifier, parsed.seed)
        session = Session(bench.checkpoints, bench.progress, bench.tracker.metrics, clock=bench.clock)
        reviewer = Reviewer(bench, teacher, parsed.health, parsed.set.strict)
        result = materializer.run(store, set_header(bench, teacher, inputs["synthesizer"]), session, reviewer)
        with bench.clock.part("io"):
            hand_on(bench, result.reference, set_path, "synthesis")
        return bench.finish(outputs, {**result.numbers, **reviewer.keep(set_path)})


def open_set_store(bench: Workbench) -> Store:
    """Where this step's set lies, cleared of what killed writers left."""
    store = bench.store.below(f"sets/{bench.key}")
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


def hand_on(bench: Workbench, reference: SetReference, set_path: Path, context: str) -> None:
    """Write a published set's reference for the next step, and show the set to the tracker."""
    write_reference(set_path, reference)
    show_set(bench, reference, context)
    shard = next(SyntheticSet.open(reference.uri).shards("train"))
    bench.tracker.image("synthetic_images.png", image_grid(shard.images, shard.teacher_logits.argmax(1)))


def show_set(bench: Workbench, reference: SetReference, context: str) -> None:
    """Tell the tracker of a set that the step wrote or read, by its manifest."""
    bench.tracker.dataset("synthetic set", join_uri(reference.uri, MANIFEST), reference.sha256, context)
