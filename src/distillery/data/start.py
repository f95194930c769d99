"""A set that another one begins with: images made before, such as pre-inverted ones, of the same teacher."""

from dataclasses import dataclass
from typing import Self

from distillery.data.reference import open_set
from distillery.data.shards import Shard, read_shard
from distillery.data.store import SetWriter, SyntheticSet
from distillery.provenance import check_pinned
from distillery.types import ImageSpec


@dataclass(frozen=True)
class StartSet:
    """A published set whose shards become the first ones of a set that grows.

    Attributes:
        found: the set.
    """

    found: SyntheticSet

    @classmethod
    def open(cls, uri: str, teacher_sha256: str, spec: ImageSpec, pinned: str = "") -> Self:
        """The set at a URI or in a folder; no shard is read yet.

        Args:
            uri: of the set, or a folder in which a step has left its reference.
            teacher_sha256: that it must be of.
            spec: of the teacher's images.
            pinned: the hash that its manifest must have; "" takes any.

        Raises:
            MissingResourceError: no set is published there.
            CheckpointMismatchError: it is of another teacher, or another set than the plan saw.
            ConfigError: its images have another shape, or it has none to train on.
            StoreError: its manifest is damaged.
        """
        found = open_set(uri, teacher_sha256)
        if pinned:
            check_pinned(f"The set to begin with, {uri!r},", found.digest, pinned)
        found.check(spec)
        return cls(found)

    @property
    def digest(self) -> str:
        """Of its manifest, which names every byte of it."""
        return self.found.digest

    @property
    def images(self) -> int:
        """Images of it to train on."""
        return self.found.manifest.images

    def begin(self, writer: SetWriter) -> list[Shard]:
        """Make its shards the first ones of another set, held-out ones included; each is verified as it is read.

        A shard lies under the hash of its bytes. In a folder of the same file system it is the same file under a second name, so no byte is
        copied; elsewhere it is a copy. So each set is whole by itself, whatever becomes of the other.

        Returns:
            The shards, in the order of the manifest.

        Raises:
            MissingResourceError: a shard is gone.
            StoreError: a shard is damaged, or the other set cannot be written.
        """
        shards = []
        for entry in self.found.manifest.shards:
            shards.append(read_shard(self.found.store, entry))
            writer.adopt(entry, self.found.store)
        return shards
