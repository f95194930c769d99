"""Where each name of the public surface comes from; imports nothing before it is asked, so that an error's class costs no torch."""

from importlib import import_module
from typing import Any

PLACES = {
    "CheckpointMismatchError": "errors",
    "Classifier": "types",
    "ConfigError": "errors",
    "Distilled": "api.distilling",
    "DistilleryError": "errors",
    "EvaluationReport": "evaluation.report",
    "ExportedFile": "models.export",
    "ImageSpec": "types",
    "ImportedTeacher": "api.teachers",
    "Inverted": "api.inverting",
    "MaterializedSet": "api.sets",
    "MissingResourceError": "errors",
    "ProgressEvent": "host",
    "StepResult": "api.running",
    "StoreError": "errors",
    "TextProgress": "api.progress",
    "allow_modules": "models.allowance",
    "distill": "api.distilling",
    "evaluate": "api.evaluating",
    "export": "api.exporting",
    "import_teacher": "api.teachers",
    "invert": "api.inverting",
    "load_classifier": "api.teachers",
    "materialize": "api.sets",
}
"""Name -> module below `distillery`."""


def load(name: str) -> Any:
    """The object behind a name of `PLACES`."""
    return getattr(import_module(f"distillery.{PLACES[name]}"), name)
