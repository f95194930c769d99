"""Cron as Kubeflow's controller of schedules reads it: six fields, the first of them seconds."""

import re

from distillery.errors import ConfigError

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _DAYS),
)
_PART = re.compile(r"(?P<from>[*?]|\d{1,2}|[A-Za-z]{3})(?:-(?P<to>\d{1,2}|[A-Za-z]{3}))?(?:/(?P<step>\d{1,2}))?")


def check_cron(text: str, where: str = "cron") -> str:
    """A cron expression with single spaces.

    Kubeflow takes five fields as well, and reads them shifted: `0 3 * * 1`, meant for Mondays at three, is the third minute of every hour
    in January.

    Args:
        text: second, minute, hour, day of the month, month and day of the week.
        where: it stands.

    Raises:
        ConfigError: another number of fields, or a field that cannot be one.
    """
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise ConfigError(
            f"{where} = {text!r} has {len(fields)} fields: give six, the first of them seconds, such as 0 0 3 * * 1 for Mondays at 03:00."
        )
    for field, (name, lowest, highest, words) in zip(fields, _FIELDS, strict=True):
        if not all(_is_part(part, lowest, highest, words) for part in field.split(",")):
            spoken = f" or {words[0]} to {words[-1]}" if words else ""
            raise ConfigError(
                f"{where} = {text!r} is not allowed: {field!r} is no {name}; give *, or numbers from {lowest} to {highest}{spoken}, "
                "with commas between, a-b for a range and /n for every n-th."
            )
    return " ".join(fields)


def _is_part(part: str, lowest: int, highest: int, words: tuple[str, ...]) -> bool:
    found = _PART.fullmatch(part)
    if not found or found["step"] == "0" or (found["from"] in "*?" and found["to"]):
        return False
    first = lowest if found["from"] in "*?" else _number(found["from"], lowest, words)
    last = _number(found["to"], lowest, words) if found["to"] else first
    return lowest <= first <= last <= highest


def _number(text: str, lowest: int, words: tuple[str, ...]) -> int:
    if text.isdecimal():
        return int(text)
    return words.index(text.upper()) + lowest if text.upper() in words else -1
