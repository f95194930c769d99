"""Shim of the step that reads the teacher's BatchNorm moments."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="registry.example.com/distillery/runtime-cpu-python:0.1.0", packages_to_install=[], install_kfp_package=False)
def extract_statistics(
    section: dict[str, Any],
    teacher_uri: str,
    synth_statistics_uri: str,
    statistics: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Read the teacher's BatchNorm moments into one file.

    Args:
        section: the plan's settings for this step.
        teacher_uri: folder of the teacher's bundle.
        synth_statistics_uri: a file of the teacher's moments, measured before; empty reads its own buffers.
        statistics: one safetensors file with mean and variance of every BatchNorm2d.
        metrics: how many layers and channels were read.
    """
    from pathlib import Path

    from distillery.step_table import StatisticsFile
    from distillery.steps.extract_statistics import Inputs, Outputs, run

    outputs = Outputs(statistics=StatisticsFile(Path(statistics.path)))
    inputs = Inputs(teacher_uri=teacher_uri, synth_statistics_uri=synth_statistics_uri)
    for name, value in run(section, inputs, outputs).items():
        metrics.log_metric(name, value)
