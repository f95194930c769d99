"""What only grows is written once: a save costs the same however long the list is."""

from pathlib import Path

import pytest

from distillery.config import Config
from distillery.engine.checkpoint import Checkpoints
from distillery.engine.growing import BLOCK, FOLDER, GrowingList
from distillery.errors import StoreError
from distillery.storage import FolderStore, MemoryStore


class Item(Config):
    number: int
    classes: tuple[tuple[int, int], ...] = ()


def items_of(count: int) -> list[Item]:
    return [Item(number=number, classes=((number, 1),)) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK**2 - 1, BLOCK**2, BLOCK**2 + BLOCK + 1])
def test_every_item_comes_back_in_order_and_the_list_grows_on(count: int) -> None:
    store, items = MemoryStore(), items_of(count + 70)
    grown = GrowingList(store)
    grown.grow(items[: count // 2])
    grown.grow(items[:count])
    again = GrowingList(store)
    assert [Item.parse(item) for item in again.load_state_dict(grown.state_dict())] == items[:count]
    again.grow(items)
    assert [Item.parse(item) for item in GrowingList(store).load_state_dict(again.state_dict())] == items


def test_a_save_writes_as_much_late_as_early(monkeypatch: pytest.MonkeyPatch) -> None:
    store, items = MemoryStore(), items_of(2 * BLOCK**2)
    written: list[int] = []
    write = MemoryStore.write
    monkeypatch.setattr(MemoryStore, "write", lambda self, key, data: (written.append(len(data)), write(self, key, data)))
    grown = GrowingList(store)
    states = []
    for count in range(1, len(items) + 1):
        grown.grow(items[:count])
        states.append(sum(map(len, grown.state_dict()["levels"])))
    assert max(states) <= 2 * BLOCK
    assert len(written) == 2 * BLOCK + 2
    assert max(written) < 8000


def test_equal_lists_leave_equal_blocks_however_they_grew() -> None:
    one, two = MemoryStore(), MemoryStore()
    GrowingList(one).grow(items_of(200))
    slow = GrowingList(two)
    for count in range(1, 201):
        slow.grow(items_of(count))
    assert {key: one.read(key) for key in one.list()} == {key: two.read(key) for key in two.list()}
    assert len(one.list(FOLDER)) == 200 // BLOCK


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_a_damaged_block_stops_a_resume_with_a_sentence(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(FolderStore(tmp_path))
    checkpoints.save(1, {"a": 1}, {"items": items_of(BLOCK + 2)})
    assert Checkpoints(checkpoints.store).load() == (1, {"a": 1, "items": [item.to_json() for item in items_of(BLOCK + 2)]})
    (key,) = checkpoints.store.list(FOLDER)
    if damage == "gone":
        checkpoints.store.delete(key)
    else:
        checkpoints.store.write(key, checkpoints.store.read(key).replace(b"63", b"64"))
    with pytest.raises(StoreError, match=rf"block 'lists/.*' .* is missing or damaged: delete the folder '{tmp_path}' to start"):
        Checkpoints(checkpoints.store).load()


def test_a_resumed_list_goes_on_and_a_finished_step_leaves_none(tmp_path: Path) -> None:
    first = Checkpoints(FolderStore(tmp_path))
    first.save(1, {}, {"items": items_of(100)})
    second = Checkpoints(first.store)
    assert second.load() is not None
    second.save(2, {}, {"items": items_of(150)})
    found = Checkpoints(first.store).load()
    assert found is not None
    assert [item["number"] for item in found[1]["items"]] == list(range(150))
    second.finish({"metrics": {}})
    assert first.store.list() == ["result.json"]
