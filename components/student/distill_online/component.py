"""Shim of the step that plays a synthesizer against the student it trains."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="registry.example.com/distillery/runtime-gpu-python:0.1.0", packages_to_install=[], install_kfp_package=False)
def distill_online(
    section: dict[str, Any],
    teacher_uri: str,
    accelerators: str,
    student_start_uri: str,
    synth_ood_uri: str,
    synth_start_uri: str,
    statistics: dsl.Input[dsl.Artifact],
    synthesizer: dsl.Output[dsl.Model],
    dataset: dsl.Output[dsl.Dataset],
    student: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train a synthesizer and a student against each other, round by round.

    Args:
        section: the plan's settings for this step.
        teacher_uri: folder of the teacher's bundle.
        accelerators: how many the cluster was asked for; the step refuses to work where it finds none.
        student_start_uri: bundle whose weights the student begins with; empty draws fresh ones.
        synth_ood_uri: images of another domain, where the method or a stage of the student uses some; empty for none.
        synth_start_uri: a set made before with which the pool begins; empty for none.
        statistics: the teacher's moments.
        synthesizer: the synthesizer after the last round.
        dataset: reference to the pool that the student was trained on, published as a set.
        student: the student's bundle.
        metrics: the loss terms of the last round.
    """
    from pathlib import Path

    from distillery.step_table import SetFolder, StatisticsFile, StudentFolder, SynthesizerFolder
    from distillery.steps.distill_online import Inputs, Outputs, run

    given = {"synth_start_uri": synth_start_uri, "synth_ood_uri": synth_ood_uri, "student_start_uri": student_start_uri}
    moments = StatisticsFile(Path(statistics.path))
    inputs = Inputs(teacher_uri=teacher_uri, statistics=moments, accelerators=accelerators, **given)
    outputs = Outputs(
        synthesizer=SynthesizerFolder(Path(synthesizer.path)),
        set=SetFolder(Path(dataset.path)),
        student=StudentFolder(Path(student.path)),
    )
    for name, value in run(section, inputs, outputs).items():
        metrics.log_metric(name, value)
