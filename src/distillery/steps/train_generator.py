"""The step that trains a synthesizer before any student exists."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distillery.data.pool import quantize
from distillery.engine.offline import train_synthesizer
from distillery.recipes.sections import GeneratorSection
from distillery.reporting.grid import image_grid
from distillery.step_table import StatisticsFile, SynthesizerFolder
from distillery.synthesis.bundle import SynthesizerState, save_synthesizer
from distillery.synthesis.protocol import Synthesizer
from distillery.workbench.accelerators import check_promise
from distillery.workbench.assembly import PlannedMethod, open_teacher
from distillery.workbench.bench import Workbench, reporting, workbench
from distillery.workbench.sources import ood_inputs, open_planned_ood, show_ood

STEP = "train_generator"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads.

    Attributes:
        teacher_uri: the teacher's bundle, a folder or a URI.
        statistics: the teacher's moments; None for a method that needs none.
        synth_ood_uri: images of another domain, those that the plan saw, where the method learns from some; "" for none.
        accelerators: how many the cluster was asked for.
    """

    teacher_uri: str
    statistics: StatisticsFile | None = None
    synth_ood_uri: str = ""
    accelerators: str = "0"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes: the trained synthesizer."""

    synthesizer: SynthesizerFolder


@reporting(STEP)
def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Train a method's synthesizer, or the share of an ensemble that the section names.

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
    ood = open_planned_ood(parsed, inputs.synth_ood_uri, teacher)
    with workbench(STEP, parsed, {**plan.inputs(teacher), **ood_inputs(ood)}) as bench:
        show_ood(bench, inputs.synth_ood_uri, ood)
        turns = parsed.rounds * parsed.turns_per_round
        build = partial(plan.build, teacher, bench.runtime, parsed.seed, turns, ood, parsed.share)
        return bench.do(vars(outputs), lambda: _train(bench, parsed, build(), plan, outputs.synthesizer))


def _train(bench: Workbench, section: GeneratorSection, synthesizer: Synthesizer, plan: PlannedMethod, path: Path) -> dict[str, float]:
    session = bench.session(section.checkpoint_every)
    numbers = train_synthesizer(synthesizer, section.rounds, session, section.turns_per_round)
    state = SynthesizerState(plan.name, plan.config.to_json(), bench.inputs["teacher"], synthesizer.state_dict(), section.share)
    save_synthesizer(path, state, bench.provenance)
    _show(bench, synthesizer)
    return {**numbers, "rounds": float(section.rounds)}


def _show(bench: Workbench, synthesizer: Synthesizer) -> None:
    batch = synthesizer.synthesize(64)
    labels = batch.labels if batch.labels is not None else batch.images.new_zeros(len(batch)).long()
    bench.tracker.image("synthetic_images.png", image_grid(quantize(batch.images).cpu(), labels.cpu()))
