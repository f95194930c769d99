"""Files of torch.save read without running anything: types that trainers leave beside weights become empty stand-ins of ours."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from distillery.errors import ConfigError
from distillery.foreign_code import named

_ADVICE = "torch.save(model.state_dict(), 'weights.pt') and import that"
_NUMPY = [
    *(
        "dtype",
        "ndarray",
        "bool",
        "bool_",
        "int_",
        "intc",
        "uintc",
        "float16",
        "float32",
        "float64",
        "longdouble",
        "complex64",
        "complex128",
    ),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(f"{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"dtypes.{name}" for name in vars(np.dtypes) if name.endswith("DType")),
    *(f"random._pickle.__{name}_ctor" for name in ("randomstate", "generator", "bit_generator")),
]
_PATHS = ["Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"]
_IGNORED = [
    *(f"numpy.{name}" for name in _NUMPY),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *("argparse.Namespace", "types.SimpleNamespace", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"builtins.{name}" for name in ("int", "float", "str", "bool", "bytes", "list", "dict", "tuple", "frozenset", "range", "slice")),
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "nodes.AnyNode", "nodes.ValueNode")),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "typing.Any"),
]
_DICTS = [
    "collections.defaultdict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
]


class _Ignored:
    """Stands for an object beside the weights: whatever it is made from, or told, it holds nothing."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Dict:
    """Stands for a kind of dict: a plain one, to be filled; a default factory is not kept."""

    def __new__(cls, *arguments: Any) -> Any:
        return {}


class _List:
    """Stands for a kind of list: a plain one, to be filled."""

    def __new__(cls, *arguments: Any) -> Any:
        return []


# by name, so that the types themselves never meet what a file gives them
_STAND_INS: list[Any] = [
    *((_Ignored, name) for name in _IGNORED),
    *((_Dict, name) for name in _DICTS),
    (_List, "collections.deque"),
]


def read_objects(path: Path) -> object:
    """What a file of torch.save holds: tensors, dicts, lists and plain values, with stand-ins for harmless types of others.

    Args:
        path: of the format of today (zip) or of before torch 1.6.

    Raises:
        ConfigError: a type that is not on the list, or a file that cannot be read.
    """
    try:
        with warnings.catch_warnings():  # torch warns of TorchScript archives before it refuses them
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals(_STAND_INS):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(_refusal(path, str(error))) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError and more on damaged files and on TorchScript
        raise ConfigError(f"{str(path)!r} cannot be read as a checkpoint ({named(error)}): save {_ADVICE}.") from error


def _refusal(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found is None and "Unsupported" not in message:
        return f"{str(path)!r} holds no tensors that can be read without running code: where it was trained, {_ADVICE}."
    what = f" of the type {found[1]}" if found else ""
    return (
        f"{str(path)!r} holds a pickled whole model or other Python objects{what}, and objects are never unpickled: where it was trained, "
        f"{_ADVICE}."
    )
