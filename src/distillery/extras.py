"""What an installation may do without: extras, each with the modules that come with it, and the sentence that says which one is missing."""

import sys
from importlib.util import find_spec

from distillery.errors import ConfigError

EXTRAS = {
    "kubeflow": ("kfp",),
    "mlflow": ("mlflow",),
    "s3": ("boto3",),
    "export": ("onnx", "onnxscript"),
    "timm": ("timm",),
    "demo": ("sklearn",),
}
"""Extra -> modules that are imported where they are used, and nowhere else."""


def installed(extra: str) -> bool:
    """Whether everything of an extra can be imported; nothing is."""
    return all(map(_is_there, EXTRAS[extra]))


def need(extra: str, what: str) -> None:
    """Refuse what an installation without that extra cannot do.

    Args:
        extra: a key of `EXTRAS`.
        what: that needs it, as the subject of the sentence.

    Raises:
        ConfigError: names what is missing and how to install it.
    """
    missing = [module for module in EXTRAS[extra] if not _is_there(module)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(f"{what} needs {' and '.join(missing)}, which {verb} not installed: pip install 'distillery[{extra}]'.")


def _is_there(module: str) -> bool:
    if module in sys.modules:  # None there means that it must not be imported
        return sys.modules[module] is not None
    try:
        return find_spec(module) is not None
    except ImportError:
        return False
