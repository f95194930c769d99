import pytest
import torch

from distillery.synthesis.common import draw_labels, in_full_batches


@pytest.mark.parametrize(("count", "classes"), [(64, 100), (1, 7), (100, 7), (256, 100), (6, 4), (255, 256)])
def test_balanced_labels_ask_for_every_class_equally_often_over_many_batches(count: int, classes: int) -> None:
    draws, batches = torch.Generator().manual_seed(1), 4000
    total = torch.zeros(classes)
    for _ in range(batches):
        counts = draw_labels(count, classes, "balanced", draws).bincount(minlength=classes)
        assert counts.sum() == count
        assert counts.max() - counts.min() <= 1, "each class has its share in each batch"
        total += counts
    share = count / classes
    spread = (batches * (share % 1) * (1 - share % 1)) ** 0.5  # of a class's count: it gets one more, or not
    assert (total - batches * share).abs().max() < 5 * spread


@pytest.mark.parametrize(("count", "classes"), [(64, 4), (8, 8), (30, 10)])
def test_balanced_labels_without_a_remainder_draw_what_they_always_drew(count: int, classes: int) -> None:
    draws, same = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    assert torch.equal(draw_labels(count, classes, "balanced", draws), torch.randperm(count, generator=same) % classes)
    assert torch.equal(draws.get_state(), same.get_state())


def test_balanced_labels_depend_on_the_generator_alone() -> None:
    draws = torch.Generator().manual_seed(3)
    draw_labels(64, 100, "balanced", draws)
    state = draws.get_state()
    first = draw_labels(64, 100, "balanced", draws)
    draws.set_state(state)
    assert torch.equal(draw_labels(64, 100, "balanced", draws), first)


def test_balanced_labels_come_in_random_order() -> None:
    draws = torch.Generator().manual_seed(4)
    places = torch.stack([(draw_labels(6, 4, "balanced", draws) == 3).float() for _ in range(4000)]).mean(0)
    assert (places - places.mean()).abs().max() < 0.05


def test_full_batches_are_shuffled_and_the_images_come_back_in_the_order_of_their_labels() -> None:
    seen: list[torch.Tensor] = []

    def make(part: torch.Tensor) -> torch.Tensor:
        seen.append(part)
        return part.float().view(-1, 1, 1, 1)

    labels, surplus = torch.arange(3).repeat_interleave(9), torch.tensor([7, 8, 9])
    made = in_full_batches(labels, surplus, 10, torch.Generator().manual_seed(5), make)
    assert torch.equal(made.flatten(), labels.float())
    assert [len(part) for part in seen] == [10, 10, 10]
    assert all(len(set(part.tolist()) - {7, 8, 9}) > 1 for part in seen), "no batch is of one class"
