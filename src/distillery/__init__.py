"""Data-free knowledge distillation: a trained classifier's weights in, a smaller student and its evaluation out.

    teacher = distillery.import_teacher("weights.pt", "resnet34", spec, classes, "teacher")
    result = distillery.distill(teacher, "fast_dfkd/cifar10-resnet34-resnet18-k5", "run", data="test.npz")
    student = result.load()

Everything that `__all__` lists is loaded when it is first asked for: `import distillery` itself imports no torch. No step imports a name
from here, so that no key of finished work depends on this list.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillery.api.distilling import Distilled, distill
    from distillery.api.evaluating import evaluate
    from distillery.api.exporting import export
    from distillery.api.inverting import Inverted, invert
    from distillery.api.progress import TextProgress
    from distillery.api.running import StepResult
    from distillery.api.sets import MaterializedSet, materialize
    from distillery.api.teachers import ImportedTeacher, import_teacher, load_classifier
    from distillery.errors import CheckpointMismatchError, ConfigError, DistilleryError, MissingResourceError, StoreError
    from distillery.evaluation.report import EvaluationReport
    from distillery.host import ProgressEvent
    from distillery.models.allowance import allow_modules
    from distillery.models.export import ExportedFile
    from distillery.types import Classifier, ImageSpec

__all__ = [
    "CheckpointMismatchError",
    "Classifier",
    "ConfigError",
    "Distilled",
    "DistilleryError",
    "EvaluationReport",
    "ExportedFile",
    "ImageSpec",
    "ImportedTeacher",
    "Inverted",
    "MaterializedSet",
    "MissingResourceError",
    "ProgressEvent",
    "StepResult",
    "StoreError",
    "TextProgress",
    "allow_modules",
    "distill",
    "evaluate",
    "export",
    "import_teacher",
    "invert",
    "load_classifier",
    "materialize",
]


def __getattr__(name: str) -> Any:
    """A name of the public surface, loaded now."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = import_module(".api.surface", __name__).load(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public surface."""
    return sorted(__all__)
