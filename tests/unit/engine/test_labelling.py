"""What depends on a task: asked of one labeller, and proved by a toy segmenter beside the classifiers."""

import pytest
import torch

from distillery.data.manifest import SetHeader
from distillery.data.publishing import publish_manifest
from distillery.data.shards import classes_in
from distillery.data.store import SyntheticSet
from distillery.engine import labelling
from distillery.engine.labelling import labeller_of, teacher_logits
from distillery.engine.materialize import Materializer, SetConfig
from distillery.engine.recorded import Ground, RecordedPool
from distillery.engine.selection import Score
from distillery.errors import ConfigError
from distillery.evaluation.agreement import Agreement
from distillery.provenance import Provenance
from distillery.storage import FolderStore
from distillery.types import Batch, Classifier
from fakes import FakeSynthesizer
from toy_segmenter import SPEC, SegmentationLabeller, segmenter

HEADER = SetHeader(shape=SPEC.shape, num_classes=3, teacher_sha256="a" * 64, provenance=Provenance(code_version="test"))


@pytest.fixture
def segmentation(monkeypatch: pytest.MonkeyPatch) -> SegmentationLabeller:
    labeller = SegmentationLabeller()
    monkeypatch.setattr(labelling, "LABELLERS", {**labelling.LABELLERS, "segmentation": labeller})
    return labeller


def pictures() -> Batch:
    """One dark, one half bright, one of all three shades; asked for grey, bright and nothing."""
    images = torch.zeros(3, *SPEC.shape)
    images[1, :, :2] = 1.0
    images[2, :, 0], images[2, :, 1] = 1.0, 0.5
    return Batch(images, torch.tensor([1, 2, -1]))


def test_a_classifier_stores_logits_and_counts_their_argmax(teacher: Classifier) -> None:
    labeller = labeller_of(teacher.task)
    images = torch.randint(256, (5, *teacher.spec.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    stored = labeller.label(teacher, images)
    assert torch.equal(stored, teacher_logits(teacher, images))
    places, classes = labeller.classes(stored)
    assert places.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(classes, stored.argmax(1))
    asked = torch.where(torch.arange(5) < 3, classes, -1)
    assert labeller.agrees(stored, asked).tolist() == [True, True, True, False, False]
    assert labeller.none(teacher).shape == (0, 4)


def test_students_are_compared_as_an_evaluation_does(teacher: Classifier) -> None:
    draws = torch.Generator().manual_seed(1)
    ours, theirs = (torch.randn(50, 4, generator=draws) for _ in range(2))
    found = Agreement.measure(ours, theirs)
    assert labeller_of("classification").compare(ours, theirs) == Score(50, found.agreed, found.kl * 50)


def test_a_task_without_a_labeller_is_refused_with_what_is_supported() -> None:
    with pytest.raises(ConfigError, match="task is segmentation, and what is distilled are networks of the task classification"):
        labeller_of("segmentation")


def test_a_map_counts_for_every_class_in_it() -> None:
    places, classes = classes_in(segmentation_of(pictures()))
    assert list(zip(places.tolist(), classes.tolist(), strict=True)) == [(0, 0), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)]


def segmentation_of(batch: Batch) -> torch.Tensor:
    return SegmentationLabeller().label(segmenter(), (batch.images * 255).round().to(torch.uint8))


def test_the_pool_of_a_segmenter_stores_maps_and_reads_them_back(segmentation: SegmentationLabeller, store: FolderStore) -> None:
    teacher = segmenter()
    pool = RecordedPool(Ground(store, HEADER, teacher, holdout=0.0, seed=0))
    pool.add(pictures())
    numbers = pool.book()
    assert numbers == {"synthesis/pool": 3.0, "synthesis/asked_agreement": 0.5}
    made = SyntheticSet.open(publish_manifest(store, pool.manifest()).uri)
    made.verify()
    (entry,) = made.entries("train")
    assert (entry.counts, entry.asked, entry.agreed) == (((0, 3), (1, 1), (2, 2)), ((1, 1), (2, 1)), 1)
    answers = made.load("train").teacher_logits
    assert (answers.dtype, tuple(answers.shape)) == (torch.uint8, (3, 4, 4))
    assert torch.equal(answers, segmentation_of(pictures()))
    again = RecordedPool(Ground(store, HEADER, teacher, holdout=0.0, seed=0))
    again.load_state_dict(pool.state_dict(), {"entries": [entry.to_json() for entry in pool.lists()["entries"]]})
    assert torch.equal(again.train.images, pool.train.images)


def test_held_out_images_of_a_segmenter_are_judged_by_pixels(segmentation: SegmentationLabeller, store: FolderStore) -> None:
    teacher, student = segmenter(), segmenter()
    student.network.shades.data[0, 2] = 0.4  # it takes what is bright for grey
    pool = RecordedPool(Ground(store, HEADER, teacher, holdout=0.5, seed=0))
    for _ in range(4):
        pool.add(pictures())
    pool.book()
    stored = pool.held_out_answers()
    assert stored.dtype == torch.uint8
    assert len(stored) == len(pool.held_out) > 0
    with torch.no_grad():
        own, other = (net(pool.held_out.images.float() / 255) for net in (teacher, student))
    assert segmentation.compare(stored, own) == Score(stored.numel(), stored.numel())
    assert segmentation.compare(stored, other).agreed == int((stored == other.argmax(1)).sum()) < stored.numel()


def test_quotas_are_for_classifiers_only(segmentation: SegmentationLabeller) -> None:
    teacher = segmenter()
    with pytest.raises(ConfigError, match="an image of segmentation is of several classes: give a classifier"):
        Materializer(SetConfig(size=4), FakeSynthesizer(teacher), teacher, 0)
