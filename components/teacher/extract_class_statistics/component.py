"""Shim of the step that measures the teacher's BatchNorm moments of each class."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="registry.example.com/distillery/runtime-gpu-python:0.1.0", packages_to_install=[], install_kfp_package=False)
def extract_class_statistics(
    section: dict[str, Any],
    teacher_uri: str,
    accelerators: str,
    dataset: dsl.Input[dsl.Dataset],
    class_statistics: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Measure the teacher's BatchNorm moments of each class, and publish the file of them in the store.

    Args:
        section: the plan's settings for this step.
        teacher_uri: folder of the teacher's bundle.
        accelerators: how many the cluster was asked for; the step refuses to work where it finds none.
        dataset: reference to a synthetic set, or to labelled images where they lie.
        class_statistics: one safetensors file, with the number of images of each class; a later run takes its copy in the store as
            synth_statistics_uri.
        metrics: how many layers, channels and images there were, and how many images of the class that had fewest.
    """
    from pathlib import Path

    from distillery.step_table import ClassStatisticsFile, SetFolder
    from distillery.steps.extract_class_statistics import Inputs, Outputs, run

    inputs = Inputs(teacher_uri=teacher_uri, set=SetFolder(Path(dataset.path)), accelerators=accelerators)
    outputs = Outputs(class_statistics=ClassStatisticsFile(Path(class_statistics.path)))
    for name, value in run(section, inputs, outputs).items():
        metrics.log_metric(name, value)
