"""On how many images moments of classes were measured, in words: few images of a class say more of themselves than of it."""

from collections.abc import Sequence

from distillery.errors import ConfigError

STABLE_IMAGES = 300
"""Images of a class below which its moments still depend on which images they are: see docs/guides/statistics.md."""
_NAMED = 10


def few(counts: Sequence[int], class_names: Sequence[str]) -> str:
    """The classes with fewer than `STABLE_IMAGES` images, the first ten by name with their number; "" where there are none.

    Args:
        counts: images of each class.
        class_names: in the same order.
    """
    found = [f"{name} ({count:,})" for name, count in zip(class_names, counts, strict=True) if count < STABLE_IMAGES]
    return ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")


def tell_counts(counts: Sequence[int], class_names: Sequence[str]) -> str:
    """On how many images each class was measured: one number where all have it, each class by name where they are few, else the span.

    Args:
        counts: images of each class.
        class_names: in the same order.
    """
    low, high = min(counts), max(counts)
    if low == high:
        return f"{low:,} of each of {len(counts)} classes"
    if len(counts) <= _NAMED:
        return ", ".join(f"{count:,} of {name}" for name, count in zip(class_names, counts, strict=True))
    return f"{low:,} to {high:,} of each of {len(counts)} classes"


def tell_measured(counts: Sequence[int], class_names: Sequence[str], measured_on: str) -> str:
    """All that is told of them in one breath: on what, on how many, and which classes had few.

    Args:
        counts: images of each class.
        class_names: in the same order.
        measured_on: "data", "set", or "" where nothing says it.
    """
    what = {"data": "real labelled images", "set": "synthetic images"}.get(measured_on, "images")
    rare = few(counts, class_names)
    below = f"; fewer than {STABLE_IMAGES}, too few for stable moments: {rare}" if rare else ""
    return f"measured on {what}: {tell_counts(counts, class_names)}{below}"


def check_every_class(counts: Sequence[int], class_names: Sequence[str]) -> None:
    """Refuse images that leave a class out.

    Args:
        counts: images of each class.
        class_names: in the same order.

    Raises:
        ConfigError: names the first five such classes.
    """
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        raise ConfigError(f"No images of class {', '.join(empty[:5])} were given: per-class moments need images of every class.")
