"""The step that trains a synthesizer before any student exists."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.data.pool import quantize
from distillery.engine.offline import train_synthesizer
from distillery.recipes.sections import GeneratorSection
from distillery.reporting.grid import image_grid
from distillery.step_table import StatisticsFile, SynthesizerFolder
from distillery.synthesis.bundle import SynthesizerState, save_synthesizer
from distillery.synthesis.protocol import Synthesizer
from distillery.workbench.accelerators import check_promise
from distillery.workbench.assembly import PlannedMethod, Teacher, open_teacher
from distillery.workbench.bench import Workbench, reporting, workbench

STEP = "train_generator"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads.

    Attributes:
        teacher_uri: the teacher's bundle, a folder or a URI.
        statistics: the teacher's moments; None for a method that needs none.
        accelerators: how many the cluster was asked for.
    """

    teacher_uri: str
    statistics: StatisticsFile | None = None
    accelerators: str = "0"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes: the trained synthesizer."""

    synthesizer: SynthesizerFolder


@reporting(STEP)
def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Train a method's synthesizer.

    Args:
        section: a `GeneratorSection` as JSON.
        inputs: what it reads.
        outputs: where it writes.

    Returns:
        Loss terms of the last round, and `rounds`.

    Raises:
        ConfigError: a promised accelerator that is not there, settings that are not allowed, a teacher that the method cannot use, or a
            term that went bad.
        CheckpointMismatchError: another teacher, or another teacher's moments.
        MissingResourceError: an input that is not there.
        StoreError: damaged bytes, or a store that cannot be written.
    """
    check_promise(inputs.accelerators)
    parsed = GeneratorSection.parse(section, "generator")
    plan = PlannedMethod.parse(parsed.method, parsed.method_config, inputs.statistics)
    teacher = open_teacher(parsed, inputs.teacher_uri)
    with workbench(STEP, parsed, plan.inputs(teacher)) as bench:
        return bench.do(vars(outputs), lambda: _train(bench, parsed, plan, teacher, outputs))


def _train(bench: Workbench, section: GeneratorSection, plan: PlannedMethod, teacher: Teacher, outputs: Outputs) -> dict[str, float]:
    synthesizer = plan.build(teacher, bench.runtime, section.seed, section.rounds * section.turns_per_round)
    session = bench.session(section.checkpoint_every)
    numbers = train_synthesizer(synthesizer, section.rounds, session, section.turns_per_round)
    state = SynthesizerState(plan.name, plan.config.to_json(), teacher.sha256, synthesizer.state_dict())
    save_synthesizer(outputs.synthesizer, state, bench.provenance)
    _show(bench, synthesizer)
    return {**numbers, "rounds": float(section.rounds)}


def _show(bench: Workbench, synthesizer: Synthesizer) -> None:
    batch = synthesizer.synthesize(64)
    labels = batch.labels if batch.labels is not None else batch.images.new_zeros(len(batch)).long()
    bench.tracker.image("synthetic_images.png", image_grid(quantize(batch.images).cpu(), labels.cpu()))
