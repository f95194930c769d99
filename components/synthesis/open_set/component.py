"""Shim of the step that opens the images which a run works on, where no step makes them."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="registry.example.com/distillery/runtime-cpu-python:0.1.0", packages_to_install=[], install_kfp_package=False)
def open_set(
    section: dict[str, Any],
    teacher_uri: str,
    images_uri: str,
    dataset: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Refer to a set whose every shard is whole, or to real images where they lie.

    Args:
        section: the plan's settings for this step.
        teacher_uri: folder of the teacher's bundle.
        images_uri: a set made before, or real images.
        dataset: reference to them.
        metrics: how many images there are to train on, and how many are withheld.
    """
    from pathlib import Path

    from distillery.step_table import SetFolder
    from distillery.steps.open_set import Inputs, Outputs, run

    inputs = Inputs(teacher_uri=teacher_uri, images_uri=images_uri)
    for name, value in run(section, inputs, Outputs(set=SetFolder(Path(dataset.path)))).items():
        metrics.log_metric(name, value)
