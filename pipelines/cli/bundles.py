"""A bundle named on the command line, as a local folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from distillery.errors import CheckpointMismatchError

SHA256_HELP = "Refuse any other bundle than the one with this sha256 (of its bundle.json)."


@contextmanager
def local_bundle(uri: str, sha256: str = "") -> Iterator[Path]:
    """The folder of a bundle; one that lies in a store is copied into a temporary folder, verified.

    Args:
        uri: a folder, or a URI in a store.
        sha256: refuse any other bundle; "" takes what is there.

    Raises:
        MissingResourceError: there is no bundle.
        CheckpointMismatchError: another bundle than asked for.
        StoreError: the store cannot be read, or the weights fail their hash.
    """
    from distillery.models.bundle import fetch_bundle, read_bundle

    with TemporaryDirectory() as folder:
        path = fetch_bundle(uri, Path(folder))
        found = read_bundle(path)[1]
        if sha256 not in ("", found):
            raise CheckpointMismatchError(f"The bundle {uri!r} has sha256 {found}, but {sha256} was asked for: give that one, or its hash.")
        yield path
