"""The step that fills a synthetic set from a trained synthesizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.engine.materialize import Materializer, check_size
from distillery.engine.session import Session
from distillery.errors import CheckpointMismatchError
from distillery.recipes.sections import MaterializeSection
from distillery.synthesis.bundle import load_synthesizer, read_synthesizer
from distillery.workbench.accelerators import check_promise
from distillery.workbench.assembly import PlannedMethod, Teacher, open_teacher
from distillery.workbench.bench import Workbench, reporting, workbench
from distillery.workbench.review import Reviewer
from distillery.workbench.sets import open_set_store, publish, set_header, write_set

STEP = "materialize"


@reporting(STEP)
def run(
    section: Mapping[str, Any], teacher_uri: str, statistics_path: Path, synthesizer_path: Path, set_path: Path, accelerators: str = "0"
) -> dict[str, float]:
    """Draw images until every class has its quota, and publish them as a set.

    Args:
        section: a `MaterializeSection` as JSON.
        teacher_uri: the teacher's bundle, a folder or a URI.
        statistics_path: the teacher's moments; not read by a method that needs none.
        synthesizer_path: folder of the trained synthesizer.
        set_path: folder for the set's reference; the set itself goes to the store.
        accelerators: how many the cluster was asked for.

    Returns:
        `images`, `holdout`, `drawn`, `shortfall`, and, where classes were asked for, `asked_agreement` over all raw images and
        `set_agreement` over those kept; `health/` numbers of the set.

    Raises:
        ConfigError: a promised accelerator that is not there, settings that are not allowed, or a shortfall or a collapsed set under
            `strict`.
        CheckpointMismatchError: another teacher, moments or a synthesizer of another one, or a synthesizer of another method.
        MissingResourceError: an input that is not there.
        StoreError: damaged bytes, or a store that cannot be written.
    """
    check_promise(accelerators)
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

        def fill() -> dict[str, float]:
            synthesizer = plan.build(teacher, bench.runtime, parsed.seed)
            synthesizer.load_state_dict(made.state)
            return _fill(bench, Materializer(parsed.set, synthesizer, teacher.classifier, parsed.seed), parsed, teacher, set_path)

        return bench.do(outputs, fill, lambda: publish(bench, set_path, "synthesis"))


def _fill(bench: Workbench, materializer: Materializer, section: MaterializeSection, teacher: Teacher, set_path: Path) -> dict[str, float]:
    session = Session(bench.checkpoints, bench.progress, bench.tracker.metrics, clock=bench.clock)
    reviewer = Reviewer(bench, teacher, section.health, section.set.strict)
    header = set_header(bench, teacher, bench.inputs["synthesizer"])
    result = materializer.run(open_set_store(bench), header, session, reviewer)
    write_set(bench, result.manifest, set_path)
    return {**result.numbers, **reviewer.keep(set_path)}
