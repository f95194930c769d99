"""Classes sliced over generators, and generators over shares."""

import pytest

from distillery.errors import ConfigError
from distillery.synthesis.share import ALONE, Share


@pytest.mark.parametrize(("total", "num_classes"), [(1, 10), (3, 10), (10, 10), (7, 100), (64, 100), (4, 7)])
def test_the_slices_of_all_generators_are_all_classes_in_order(total: int, num_classes: int) -> None:
    slices = Share(0, total, total).classes(num_classes)
    assert [number for part in slices for number in part] == list(range(num_classes))
    assert len(slices) == total
    assert max(map(len, slices)) - min(map(len, slices)) <= 1
    assert min(map(len, slices)) >= 1


def test_uneven_slices_by_hand() -> None:
    assert Share(0, 3, 3).classes(10) == (range(0, 3), range(3, 6), range(6, 10))


def test_a_generator_owns_the_same_classes_in_whatever_share_it_is() -> None:
    whole = Share(0, 7, 7).classes(24)
    assert Share(2, 5, 7).classes(24) == whole[2:5]
    assert len(Share(2, 5, 7)) == 3
    assert ALONE.classes(5) == (range(5),)


def test_more_generators_than_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^11 generators are more than the teacher's 10 classes, .*: give 10 or fewer\.$"):
        Share(2, 3, 11).classes(10)


@pytest.mark.parametrize("wrong", [(0, 0, 1), (-1, 1, 2), (1, 3, 2), (2, 1, 4)])
def test_what_is_no_share_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="are no share of an ensemble"):
        Share(*wrong)
