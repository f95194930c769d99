"""Shim of the step that draws a synthetic set from a synthesizer."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="registry.example.com/distillery/runtime-gpu-python:0.1.0", packages_to_install=[], install_kfp_package=False)
def materialize(
    section: dict[str, Any],
    teacher_uri: str,
    accelerators: str,
    synth_ood_uri: str,
    statistics: dsl.Input[dsl.Artifact],
    dataset: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    synthesizer: dsl.Input[dsl.Model] = None,
    synthesizers: dsl.Input[list[dsl.Model]] = None,
) -> None:
    """Draw a synthetic set with quotas per class, and publish it by its manifest.

    Args:
        section: the plan's settings for this step.
        teacher_uri: folder of the teacher's bundle.
        accelerators: how many the cluster was asked for; the step refuses to work where it finds none.
        synth_ood_uri: images of another domain, where the method or a stage of the student uses some; empty for none.
        statistics: the teacher's moments.
        dataset: a copy of the set's manifest, and a reference with its address and digest.
        metrics: images drawn and kept, and how often the teacher agrees with the asked label.
        synthesizer: a trained one; none for a method that makes its images from nothing.
        synthesizers: the trained shares of an ensemble, instead.
    """
    from pathlib import Path

    from distillery.step_table import SetFolder, StatisticsFile, SynthesizerFolder
    from distillery.steps.materialize import Inputs, Outputs, run

    given = [synthesizer] if synthesizer else synthesizers or []
    inputs = Inputs(
        teacher_uri=teacher_uri,
        statistics=StatisticsFile(Path(statistics.path)),
        synthesizers=tuple(SynthesizerFolder(Path(made.path)) for made in given),
        synth_ood_uri=synth_ood_uri,
        accelerators=accelerators,
    )
    for name, value in run(section, inputs, Outputs(set=SetFolder(Path(dataset.path)))).items():
        metrics.log_metric(name, value)
