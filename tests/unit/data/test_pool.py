"""The pool: 256 levels, growth without copies, passes without replacement."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.data.pool import ImagePool, dequantize, passes, quantize
from distillery.errors import ConfigError
from distillery.seeding import stream
from distillery.types import ImageSpec

SPEC = ImageSpec(channels=1, height=1, width=2, mean=(0.5,), std=(0.5,))


def numbered(start: int, stop: int) -> torch.Tensor:
    """uint8 images that carry their own number."""
    numbers = torch.arange(start, stop)
    return torch.stack([numbers // 256, numbers % 256], 1).to(torch.uint8).view(-1, 1, 1, 2)


def numbers_of(images: torch.Tensor) -> list[int]:
    pair = quantize(images).long().view(-1, 2)
    return (pair[:, 0] * 256 + pair[:, 1]).tolist()


def filled(num: int) -> ImagePool:
    pool = ImagePool(SPEC)
    pool.append(numbered(0, num))
    return pool


def test_every_level_survives() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantize(dequantize(levels)), levels)
    assert dequantize(levels).dtype == torch.float32
    assert dequantize(levels).tolist() == [pytest.approx(n / 255) for n in range(256)]


@given(st.floats(-1, 2, width=32))
def test_quantize_takes_the_nearest_level_and_clips(value: float) -> None:
    level = quantize(torch.tensor(value)).item()
    assert abs(level - min(max(value, 0), 1) * 255) <= 0.5 + 1e-4
    assert 0 <= level <= 255


def test_quantize_leaves_its_input_alone() -> None:
    images = torch.rand(3, requires_grad=True)
    before = images.detach().clone()
    assert not quantize(images).requires_grad
    assert torch.equal(images.detach(), before)
    levels = torch.tensor([7], dtype=torch.uint8)
    dequantize(levels)
    assert levels.item() == 7


@given(sizes=st.lists(st.integers(0, 40), max_size=12), capacity=st.integers(0, 50))
@settings(max_examples=50)
def test_appends_keep_order_and_values(sizes: list[int], capacity: int) -> None:
    pool, start = ImagePool(SPEC, capacity=capacity), 0
    for size in sizes:
        pool.append(numbered(start, start + size), torch.arange(start, start + size))
        start += size
        assert len(pool) == start
    assert torch.equal(pool.images, numbered(0, start))
    assert torch.equal(pool.labels, torch.arange(start))


def test_growth_is_amortised() -> None:
    pool, moves, place = ImagePool(SPEC), 0, 0
    for n in range(1000):
        pool.append(numbered(n, n + 1))
        moves += pool.images.data_ptr() != place
        place = pool.images.data_ptr()
    assert moves <= 11


def test_floating_images_are_quantized_and_unlabelled() -> None:
    pool = ImagePool(SPEC)
    pool.append(torch.tensor([0.0, 1.2]).view(1, 1, 1, 2))
    assert pool.images.flatten().tolist() == [0, 255]
    assert pool.images.dtype == torch.uint8
    assert pool.labels.tolist() == [-1]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"shape \[1, 1, 2\], not \[1, 2, 2\]"):
        filled(1).append(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ConfigError, match="need labels of shape"):
        filled(1).append(torch.zeros(2, 1, 1, 2), torch.zeros(1))


@given(num=st.integers(1, 30), batch=st.integers(1, 50), steps=st.integers(0, 12), seed=st.integers(0, 99))
@settings(max_examples=80)
def test_draw_gives_shuffled_passes_without_replacement(num: int, batch: int, steps: int, seed: int) -> None:
    batches = list(filled(num).draw(batch, steps, stream(seed)))
    assert [tuple(images.shape) for images in batches] == [(batch, 1, 1, 2)] * steps
    drawn = [number for images in batches for number in numbers_of(images)]
    for start in range(0, len(drawn) - num + 1, num):
        assert sorted(drawn[start : start + num]) == list(range(num))
    rest = drawn[len(drawn) // num * num :]
    assert len(set(rest)) == len(rest)


def test_each_pass_has_its_own_order() -> None:
    first, second = (numbers_of(images) for images in filled(50).draw(50, 2, stream(0)))
    assert first != second
    assert first != sorted(first)


def test_draw_depends_on_the_generator_only() -> None:
    pool = filled(20)
    first = [numbers_of(images) for images in pool.draw(7, 5, stream(1))]
    torch.rand(3)  # the global stream is not looked at
    assert [numbers_of(images) for images in pool.draw(7, 5, stream(1))] == first
    assert [numbers_of(images) for images in pool.draw(7, 5, stream(2))] != first


def test_draw_is_lazy_and_keeps_to_the_images_of_its_call() -> None:
    pool = filled(8)
    batches = pool.draw(4, 10**9, stream(0))
    pool.append(numbered(8, 100))
    seen = {number for images in islice(batches, 20) for number in numbers_of(images)}
    assert seen == set(range(8))


def test_indices_point_at_what_was_drawn() -> None:
    pool = filled(300)
    for images, indices in pool.draw(64, 6, stream(0), with_indices=True):
        assert numbers_of(images) == indices.tolist()
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 1


def test_an_empty_pool_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="pool is empty"):
        ImagePool(SPEC).draw(1, 1, stream(0))


def test_passes_of_one_image() -> None:
    assert [index.tolist() for index in passes(1, 3, 2, stream(0))] == [[0, 0, 0]] * 2


@given(num=st.integers(5, 4000), batch=st.integers(1, 40), steps=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=80)
def test_a_small_part_of_a_pass_holds_no_index_twice(num: int, batch: int, steps: int, seed: int) -> None:
    batches = list(passes(num, batch, steps, stream(seed)))
    assert [len(index) for index in batches] == [batch] * steps
    drawn = torch.cat(batches)
    assert drawn.min() >= 0
    assert drawn.max() < num
    assert len(drawn.unique()) == min(batch * steps, num) or batch * steps > num


def test_a_small_part_of_a_pass_is_drawn_evenly_in_every_place() -> None:
    draws, seen = stream(3), torch.zeros(2, 40)
    for _ in range(4000):
        index = torch.cat(list(passes(40, 1, 2, draws)))
        seen[torch.arange(2), index] += 1
    assert (seen - 100).abs().max() < 50, "100 of 4,000 each, with a standard deviation of 10"


def test_a_draw_costs_what_is_drawn_however_large_the_pool() -> None:
    draws = stream(0)
    before = draws.get_state()
    small = list(passes(2**40, 64, 2, draws))
    assert len(torch.cat(small).unique()) == 128
    assert not torch.equal(before, draws.get_state())
    assert list(passes(2**40, 64, 0, draws)) == []


def test_a_sixteenth_of_a_pass_and_more_is_the_pass_s_own_order() -> None:
    for num, same in ((400, True), (401, False)):
        expected = torch.randperm(num, generator=stream(4))[:25]
        assert torch.equal(torch.cat(list(passes(num, 5, 5, stream(4)))), expected) == same
