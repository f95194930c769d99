"""Shim of the step that scores a student beside its teacher."""

from kfp import dsl


@dsl.component(base_image="registry.example.com/distillery/runtime-gpu-python:0.1.0", packages_to_install=[], install_kfp_package=False)
def evaluate(
    section: dict[str, object],
    teacher_uri: str,
    accelerators: str,
    eval_data_uri: str,
    student: dsl.Input[dsl.Model],
    dataset: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Score a student beside its teacher, on labelled images where there are any.

    Args:
        section: the plan's settings for this step.
        teacher_uri: folder of the teacher's bundle.
        accelerators: how many the cluster was asked for; the step refuses to work where it finds none.
        eval_data_uri: labelled images; empty falls back on agreement over the set's held-out images.
        student: the student's bundle.
        dataset: reference to the synthetic set.
        report: the whole report as JSON.
        metrics: its numbers.
        confusion: the student's confusion matrix, where there are labels.
        page: everything about the run as one page to look at.
    """
    from pathlib import Path

    from distillery.step_table import PageFile, ReportFile, SetFolder, StudentFolder
    from distillery.steps.evaluate import Inputs, Outputs, log_confusion, run

    inputs = Inputs(
        teacher_uri=teacher_uri,
        student=StudentFolder(Path(student.path)),
        set=SetFolder(Path(dataset.path)),
        eval_data_uri=eval_data_uri,
        accelerators=accelerators,
    )
    outputs = Outputs(report=ReportFile(Path(report.path)), page=PageFile(Path(page.path)))
    metrics.metadata.update(run(section, inputs, outputs))
    log_confusion(outputs.report, confusion.log_confusion_matrix)
