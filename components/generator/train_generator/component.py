"""Shim of the step that trains an offline method's synthesizer."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="registry.example.com/distillery/runtime-gpu-python:0.1.0", packages_to_install=[], install_kfp_package=False)
def train_generator(
    section: dict[str, Any],
    teacher_uri: str,
    accelerators: str,
    synth_ood_uri: str,
    statistics: dsl.Input[dsl.Artifact],
    synthesizer: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train a synthesizer against the teacher alone, before any student exists.

    Args:
        section: the plan's settings for this step.
        teacher_uri: folder of the teacher's bundle.
        accelerators: how many the cluster was asked for; the step refuses to work where it finds none.
        synth_ood_uri: images of another domain, where the method or a stage of the student uses some; empty for none.
        statistics: the teacher's moments.
        synthesizer: the trained synthesizer and its configuration.
        metrics: the loss terms of the last round.
    """
    from pathlib import Path

    from distillery.step_table import StatisticsFile, SynthesizerFolder
    from distillery.steps.train_generator import Inputs, Outputs, run

    inputs = Inputs(
        teacher_uri=teacher_uri,
        statistics=StatisticsFile(Path(statistics.path)),
        synth_ood_uri=synth_ood_uri,
        accelerators=accelerators,
    )
    outputs = Outputs(synthesizer=SynthesizerFolder(Path(synthesizer.path)))
    for name, value in run(section, inputs, outputs).items():
        metrics.log_metric(name, value)
