"""Shim of the step that trains a student on a synthetic set."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="registry.example.com/distillery/runtime-gpu-python:0.1.0", packages_to_install=[], install_kfp_package=False)
def train_student(
    section: dict[str, Any],
    teacher_uri: str,
    accelerators: str,
    student_start_uri: str,
    synth_ood_uri: str,
    dataset: dsl.Input[dsl.Dataset],
    student: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train a student on a synthetic set with its teacher's answers.

    Args:
        section: the plan's settings for this step.
        teacher_uri: folder of the teacher's bundle.
        accelerators: how many the cluster was asked for; the step refuses to work where it finds none.
        student_start_uri: bundle whose weights the student begins with; empty draws fresh ones.
        synth_ood_uri: images of another domain, where the method or a stage of the student uses some; empty for none.
        dataset: reference to the synthetic set; its shards are verified as they are read.
        student: the student's bundle.
        metrics: the loss terms of the last epoch, and agreement on held-out images.
    """
    from pathlib import Path

    from distillery.step_table import SetFolder, StudentFolder
    from distillery.steps.train_student import Inputs, Outputs, run

    inputs = Inputs(
        teacher_uri=teacher_uri,
        set=SetFolder(Path(dataset.path)),
        synth_ood_uri=synth_ood_uri,
        student_start_uri=student_start_uri,
        accelerators=accelerators,
    )
    for name, value in run(section, inputs, Outputs(student=StudentFolder(Path(student.path)))).items():
        metrics.log_metric(name, value)
