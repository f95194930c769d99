"""Words that a number or a name bends, for every sentence that is put together."""


def counted(number: float, one: str, several: str = "") -> str:
    """A count with its noun: `1 stage`, `1,024 stages`.

    Args:
        number: how many.
        one: the noun in the singular.
        several: in the plural, where that is not the singular with an s.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def with_article(word: str) -> str:
    """A name behind its article: `an int`, `a dict`; by its first letter."""
    return f"{'an' if word[:1].lower() in tuple('aeiou') else 'a'} {word}"
