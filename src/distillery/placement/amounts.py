"""Words of Kubernetes, read as it reads them: amounts of CPU and memory, names of resources, labels."""

import re
from decimal import Decimal

_UNITS = {"": 1, "m": Decimal("0.001"), **{f"{letter}i": 1024**power for power, letter in enumerate("KMGT", 1)}}
_UNITS |= {letter: 1000**power for power, letter in enumerate("kMGT", 1)}
_CPU = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m?)")
_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|k|M|G|T|)")
_RESOURCE = re.compile(r"[a-z0-9.-]+\.[a-z0-9-]+/[A-Za-z0-9._-]+")
_NAME = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def read_cpu(text: str) -> Decimal:
    """CPUs of an amount such as 2, 0.5 or 500m.

    Raises:
        ValueError: no amount above 0.
    """
    return _amount(text, _CPU, "2, 0.5 or 500m")


def read_memory(text: str) -> int:
    """Bytes of an amount such as 8Gi or 512Mi.

    Raises:
        ValueError: no amount above 0.
    """
    return int(_amount(text, _MEMORY, "8Gi or 512Mi"))


def read_accelerators(text: str) -> int:
    """The number of accelerators that a text asks for.

    Raises:
        ValueError: no whole number.
    """
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise ValueError("give the number of accelerators, such as 1; 0 is for CPUs")
    return int(text)


def check_resource(text: str) -> str:
    """A text that names a resource of nodes, as their device plugin calls it.

    Raises:
        ValueError: it names none.
    """
    if not _RESOURCE.fullmatch(text):
        raise ValueError("give the resource of your accelerators, such as nvidia.com/gpu")
    return text


def check_key(text: str) -> str:
    """A text that can be the key of a label or of a taint.

    Raises:
        ValueError: Kubernetes would not take it.
    """
    domain, slash, name = text.rpartition("/")
    if not _NAME.fullmatch(name) or (slash and not _DOMAIN.fullmatch(domain)):
        raise ValueError(f"{text!r} is no key of a label; such as pool or cloud.example.com/pool")
    return text


def check_value(text: str) -> str:
    """A text that can be the value of a label or of a taint.

    Raises:
        ValueError: Kubernetes would not take it.
    """
    if text and not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no value of a label: up to 63 letters, digits, hyphens, dots and underscores")
    return text


def _amount(text: str, pattern: re.Pattern[str], example: str) -> Decimal:
    found = pattern.fullmatch(text)
    amount = Decimal(found[1]) * _UNITS[found[2]] if found else Decimal(0)
    if not amount:
        raise ValueError(f"give an amount above 0, such as {example}")
    return amount
