"""Which of an ensemble's generators one synthesizer holds, and which classes are theirs; imports no torch."""

from dataclasses import dataclass

from distillery.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """Generators `first` to `last` - 1 of `total`; the rest are trained elsewhere, and nothing of them enters what these learn.

    Attributes:
        first: index of the first generator held here, from 0.
        last: index after the last one.
        total: generators of the whole ensemble; 1 is one generator of all classes.
    """

    first: int = 0
    last: int = 1
    total: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last <= self.total:
            raise ConfigError(
                f"Generators {self.first} to {self.last - 1} of {self.total} are no share of an ensemble: give at least one, and none "
                f"outside 0..{self.total - 1}."
            )

    def __len__(self) -> int:
        return self.last - self.first

    def classes(self, num_classes: int) -> tuple[range, ...]:
        """The classes of each generator held here: all classes sliced over all generators, as evenly as can be.

        Generator g of K owns classes floor(g * C / K) to floor((g + 1) * C / K) - 1 of C, whatever share holds it.

        Args:
            num_classes: C, the teacher's.

        Returns:
            One slice a generator, none of them empty.

        Raises:
            ConfigError: more generators than classes.
        """
        if self.total > num_classes:
            raise ConfigError(
                f"{self.total} generators are more than the teacher's {num_classes} classes, and each needs one of its own: "
                f"give {num_classes} or fewer."
            )
        held = range(self.first, self.last)
        return tuple(range(g * num_classes // self.total, (g + 1) * num_classes // self.total) for g in held)


ALONE = Share()
"""One generator of all classes."""
