import pytest

from distillery.errors import ConfigError
from distillery.statistics.counts import STABLE_IMAGES, check_every_class, few, tell_counts, tell_measured

MANY = tuple(f"c{number}" for number in range(40))


@pytest.mark.parametrize(
    ("counts", "names", "told"),
    [
        ([1200] * 3, ("a", "b", "c"), "1,200 of each of 3 classes"),
        ([1200, 299, 300], ("a", "b", "c"), "1,200 of a, 299 of b, 300 of c"),
        ([300 + number for number in range(40)], MANY, "300 to 339 of each of 40 classes"),
    ],
)
def test_how_many_images_each_class_had_is_told_as_briefly_as_it_can_be(counts: list[int], names: tuple[str, ...], told: str) -> None:
    assert tell_counts(counts, names) == told


def test_classes_below_the_bound_are_named_the_first_ten_of_many() -> None:
    assert few([STABLE_IMAGES, STABLE_IMAGES - 1, 0], ("a", "b", "c")) == "b (299), c (0)"
    assert few([STABLE_IMAGES] * 2, ("a", "b")) == ""
    assert few([5] * 40, MANY) == ", ".join(f"c{number} (5)" for number in range(10)) + " and 30 more"


@pytest.mark.parametrize(
    ("measured_on", "told"),
    [
        ("data", "measured on real labelled images: 300 of a, 9 of b; fewer than 300, too few for stable moments: b (9)"),
        ("set", "measured on synthetic images: 300 of a, 9 of b; fewer than 300, too few for stable moments: b (9)"),
        ("", "measured on images: 300 of a, 9 of b; fewer than 300, too few for stable moments: b (9)"),
    ],
)
def test_what_they_were_measured_on_is_told_where_it_is_known(measured_on: str, told: str) -> None:
    assert tell_measured([300, 9], ("a", "b"), measured_on) == told
    assert "too few" not in tell_measured([300, 900], ("a", "b"), measured_on)


def test_a_class_without_images_is_named() -> None:
    check_every_class([1, 2], ("a", "b"))
    with pytest.raises(ConfigError, match="^No images of class b were given: "):
        check_every_class([1, 0], ("a", "b"))
