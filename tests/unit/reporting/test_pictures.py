import base64
import io

import numpy as np
import torch
from PIL import Image

from distillery.data.manifest import SetHeader
from distillery.data.shards import Shard
from distillery.data.store import SetWriter, SyntheticSet
from distillery.provenance import Provenance
from distillery.reporting.pictures import BUDGET, MAX_CLASSES, heat_map, sample_classes, strip
from distillery.storage import open_store
from sets import publish_set


def decode(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_images_stand_in_a_row_with_a_gap_that_shows_the_page() -> None:
    images = torch.tensor([10, 20]).to(torch.uint8).view(2, 1, 1, 1).expand(2, 1, 3, 4)
    picture = np.asarray(strip(images))
    assert picture.shape == (3, 9, 2)
    assert picture[0, :, 0].tolist() == [10] * 4 + [0] + [20] * 4
    assert picture[0, :, 1].tolist() == [255] * 4 + [0] + [255] * 4


def test_colours_stay_and_large_images_shrink() -> None:
    images = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    images[:, 2] = 200
    picture = np.asarray(strip(images))
    assert picture.shape == (64, 64, 4)
    assert picture[5, 5].tolist() == [0, 0, 200, 255]


def make_set(folder: str, shards: list[list[int]], classes: int, size: int = 4) -> SyntheticSet:
    header = SetHeader(shape=(3, size, size), num_classes=classes, teacher_sha256="t" * 64, provenance=Provenance(code_version="1"))
    store = open_store(folder)
    writer = SetWriter(store, header)
    for number, labels in enumerate(shards):
        wanted = torch.tensor(labels)
        images = torch.randint(0, 256, (len(labels), 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        images[:, 0] = wanted[:, None, None].to(torch.uint8)
        shard = Shard(images, wanted, torch.nn.functional.one_hot(wanted, classes).float())
        writer.append(shard.images, shard.asked, shard.teacher_logits)
    publish_set(writer)
    return SyntheticSet(store)


def test_a_row_holds_images_of_its_class_only(tmp_path: object) -> None:
    found = make_set(str(tmp_path), [[0, 1, 1, 0], [1, 0, 0, 3]], 4)
    samples = sample_classes(found, ("a", "b", "c", "d"))
    assert [(sample.name, sample.images, sample.in_set) for sample in samples] == [("a", 4, 4), ("b", 3, 3), ("d", 1, 1)]
    for sample, label in zip(samples, (0, 1, 3), strict=True):
        pixels = decode(sample.png)
        assert (pixels.shape[1], pixels.shape[0]) == (sample.width, sample.height)
        assert set(pixels[..., 0][pixels[..., 3] == 255].tolist()) == {label}


def test_images_are_taken_from_the_whole_set(tmp_path: object) -> None:
    found = make_set(str(tmp_path), [[0] * 20 for _ in range(8)], 2)
    (sample,) = sample_classes(found, ("a", "b"))
    shown = decode(sample.png)
    firsts = [shard.images[0, 1, 0, 0].item() for shard in found.shards("train")]
    assert [shown[0, 5 * place, 1] for place in range(8)] == firsts


def test_many_classes_stay_within_the_budget(tmp_path: object) -> None:
    found = make_set(str(tmp_path), [list(range(100)) * 5], 100, size=48)
    samples = sample_classes(found, tuple(str(index) for index in range(100)))
    assert len(samples) == MAX_CLASSES
    assert (samples[0].name, samples[-1].name) == ("0", "99")
    assert sum(len(sample.png) for sample in samples) <= BUDGET


def test_a_confusion_matrix_as_a_picture_is_opaque_where_all_of_a_row_is() -> None:
    pixels = decode(heat_map(((0, 0, 4), (1, 1, 1), (1, 2, 3)), 3))
    assert pixels.shape == (3, 3, 4)
    assert pixels[..., 3].tolist() == [[255, 0, 0], [0, 128, 221], [0, 0, 0]]
