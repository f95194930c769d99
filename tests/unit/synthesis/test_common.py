from distillery.synthesis.common import is_diagnosed


def test_the_first_rounds_are_diagnosed_and_then_ever_fewer() -> None:
    assert [number for number in range(1, 70) if is_diagnosed(number)] == [1, 2, 3, 4, 8, 16, 32, 64]
