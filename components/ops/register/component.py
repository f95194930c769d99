"""Shim of the step that registers the student as a model version."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="registry.example.com/distillery/runtime-cpu-python:0.1.0", packages_to_install=[], install_kfp_package=False)
def register(
    section: dict[str, Any], student: dsl.Input[dsl.Model], report: dsl.Input[dsl.Artifact], registration: dsl.Output[dsl.Artifact]
) -> None:
    """Register the student as a model version, and let it challenge the champion.

    Args:
        section: the plan's settings for this step.
        student: the student's bundle.
        report: the evaluation's report.
        registration: what the registry answered, as JSON.
    """
    from pathlib import Path

    from distillery.step_table import RegistrationFile, ReportFile, StudentFolder
    from distillery.steps.register import Inputs, Outputs, run

    inputs = Inputs(student=StudentFolder(Path(student.path)), report=ReportFile(Path(report.path)))
    run(section, inputs, Outputs(registration=RegistrationFile(Path(registration.path))))
