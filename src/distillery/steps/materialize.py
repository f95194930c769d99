"""The step that fills a synthetic set: from a synthesizer, from the shares of an ensemble, or by a method that needs none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.engine.materialize import Materializer, check_size
from distillery.recipes.sections import MaterializeSection
from distillery.step_table import SetFolder, StatisticsFile, SynthesizerFolder
from distillery.workbench.accelerators import check_promise
from distillery.workbench.assembly import PlannedMethod, Teacher, open_teacher
from distillery.workbench.bench import Workbench, reporting, workbench
from distillery.workbench.review import Reviewer
from distillery.workbench.sets import open_set_store, publish, set_header, write_set
from distillery.workbench.sources import ood_inputs, open_planned_ood, show_ood
from distillery.workbench.synthesizers import open_synthesizers

STEP = "materialize"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads.

    Attributes:
        teacher_uri: the teacher's bundle, a folder or a URI.
        synthesizers: that were trained with this plan: one, or every share of an ensemble; none for a method that makes its images from
            nothing.
        statistics: the teacher's moments; None for a method that needs none.
        synth_ood_uri: images of another domain, those that the plan saw, where the method learns from some; "" for none.
        accelerators: how many the cluster was asked for.
    """

    teacher_uri: str
    synthesizers: tuple[SynthesizerFolder, ...] = ()
    statistics: StatisticsFile | None = None
    synth_ood_uri: str = ""
    accelerators: str = "0"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes: the reference to the set, which itself goes to the store."""

    set: SetFolder


@reporting(STEP)
def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Draw images until every class has its quota, and publish them as a set.

    Args:
        section: a `MaterializeSection` as JSON.
        inputs: what it reads.
        outputs: where it writes.

    Returns:
        `images`, `holdout`, `drawn`, `shortfall`, and, where classes were asked for, `asked_agreement` over all raw images and
        `set_agreement` over those kept; `health/` numbers of the set.

    Raises:
        ConfigError: a promised accelerator that is not there, settings that are not allowed, or a shortfall or a collapsed set under
            `strict`.
        CheckpointMismatchError: another teacher, moments or a synthesizer of another one, a synthesizer of another method, or shares that
            are not one whole ensemble.
        MissingResourceError: an input that is not there.
        StoreError: damaged bytes, or a store that cannot be written.
    """
    check_promise(inputs.accelerators)
    parsed = MaterializeSection.parse(section, "materialize")
    plan = PlannedMethod.parse(parsed.method, parsed.method_config, inputs.statistics)
    teacher = open_teacher(parsed, inputs.teacher_uri)
    check_size(parsed.set, teacher.classifier.spec)
    made = open_synthesizers(inputs.synthesizers, plan, teacher, parsed.generators) if inputs.synthesizers or not plan.row.inverts else None
    ood = open_planned_ood(parsed, inputs.synth_ood_uri, teacher)
    hashes = {**plan.inputs(teacher), **(made.inputs if made else {}), **ood_inputs(ood)}
    with workbench(STEP, parsed, hashes) as bench:
        show_ood(bench, inputs.synth_ood_uri, ood)

        def fill() -> dict[str, float]:
            a_turn = 0 if made else plan.config.images_per_turn
            if made:
                synthesizer = plan.restore(made.states, teacher, bench.runtime, parsed.seed, ood)
            else:
                synthesizer = plan.build(teacher, bench.runtime, parsed.seed, -(-parsed.set.size // a_turn), ood)
            materializer = Materializer(parsed.set, synthesizer, teacher.classifier, parsed.seed, a_turn)
            return _fill(bench, materializer, parsed, teacher, outputs.set)

        return bench.do(vars(outputs), fill, lambda: publish(bench, outputs.set, "synthesis"))


def _fill(bench: Workbench, materializer: Materializer, section: MaterializeSection, teacher: Teacher, path: SetFolder) -> dict[str, float]:
    session = bench.session()
    reviewer = Reviewer(bench, teacher, section.health, section.set.strict)
    header = set_header(bench, teacher, bench.inputs.get("synthesizer", ""))
    result = materializer.run(open_set_store(bench), header, session, reviewer)
    write_set(bench, result.manifest, path)
    return {**result.numbers, **reviewer.keep(path)}
