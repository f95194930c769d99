"""What the run form says of the cluster's nodes, checked where it can be: in the first step, before others wait hours for a node."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from distillery.errors import ConfigError

PLACEMENT = (
    "k8s_cpu_limit",
    "k8s_cpu_request",
    "k8s_gpu_limit",
    "k8s_gpu_node_selector",
    "k8s_gpu_tolerations",
    "k8s_gpu_type",
    "k8s_memory_limit",
    "k8s_memory_request",
)
"""Fields of the run form that say where tasks run; the plan checks them and keeps none, so that they change no result."""

_CPU = re.compile(r"(\d+(?:\.\d+)?)(m?)")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T|)")
_UNITS = {"": 1, "m": Decimal("0.001"), **{f"{letter}i": 1024**power for power, letter in enumerate("KMGT", 1)}}
_UNITS |= {letter: 1000**power for power, letter in enumerate("kMGT", 1)}
_RESOURCE = re.compile(r"[a-z0-9.-]+\.[a-z0-9-]+/[A-Za-z0-9._-]+")
_TOLERATION = {"key", "operator", "value", "effect", "tolerationSeconds"}


def check_placement(form: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse what no cluster could place.

    Args:
        form: the run form's values by name; fields that are not given are not checked.

    Returns:
        The form without the fields of `PLACEMENT`.

    Raises:
        ConfigError: an amount that is none, a request above its limit, an accelerator without a type, a selector or toleration that
            Kubernetes would not take.
    """
    for name, pattern, example in (("cpu", _CPU, "2, 0.5 or 500m"), ("memory", _MEMORY, "8Gi or 512Mi")):
        amounts = {}
        for bound in ("request", "limit"):
            field = f"k8s_{name}_{bound}"
            if field in form:
                amounts[bound] = _amount(field, form[field], pattern, example)
        if len(amounts) == 2 and amounts["request"] > amounts["limit"]:
            raise ConfigError(
                f"k8s_{name}_request = {form[f'k8s_{name}_request']!r} is above k8s_{name}_limit = {form[f'k8s_{name}_limit']!r}: "
                "lower the one or raise the other."
            )
    if read_accelerators(form.get("k8s_gpu_limit", "0")):
        _check_type(form.get("k8s_gpu_type", ""))
    _check_selector(form.get("k8s_gpu_node_selector", {}))
    _check_tolerations(form.get("k8s_gpu_tolerations", []))
    return {name: value for name, value in form.items() if name not in PLACEMENT}


def read_accelerators(number: Any) -> int:
    """The number of accelerators that a text asks for.

    Raises:
        ConfigError: no whole number.
    """
    if not isinstance(number, str) or not re.fullmatch(r"[0-9]{1,4}", number):
        raise ConfigError(
            f"k8s_gpu_limit = {number!r} is not allowed: give the number of accelerators as a text, such as 1; 0 is for CPUs."
        )
    return int(number)


def read_memory(amount: Any) -> int:
    """Bytes of an amount such as 16Gi; 0 where none is given.

    Raises:
        ConfigError: no amount of memory.
    """
    return int(_amount("k8s_memory_limit", amount, _MEMORY, "8Gi or 512Mi")) if amount else 0


def _amount(field: str, value: Any, pattern: re.Pattern[str], example: str) -> Decimal:
    found = pattern.fullmatch(value) if isinstance(value, str) else None
    amount = Decimal(found[1]) * _UNITS[found[2]] if found else Decimal(0)
    if not amount:
        raise ConfigError(f"{field} = {value!r} is not allowed: give an amount above 0, such as {example}.")
    return amount


def _check_type(value: Any) -> None:
    if not isinstance(value, str) or not _RESOURCE.fullmatch(value):
        raise ConfigError(f"k8s_gpu_type = {value!r} is not allowed: give the resource of your accelerators, such as nvidia.com/gpu.")


def _check_selector(value: Any) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise ConfigError(f'k8s_gpu_node_selector = {value!r} is not allowed: give labels and their values as texts: {{"pool": "gpu"}}.')


def _check_tolerations(value: Any) -> None:
    many = value if isinstance(value, list | tuple) else [value]
    for toleration in many:
        if not isinstance(toleration, Mapping) or not set(toleration) <= _TOLERATION:
            raise ConfigError(
                f"k8s_gpu_tolerations = {value!r} is not allowed: give a list of tolerations with {', '.join(sorted(_TOLERATION))}."
            )
