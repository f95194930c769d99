"""A bundle named on the command line, as a local folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def local_bundle(uri: str) -> Iterator[Path]:
    """The folder of a bundle; one that lies in a store is copied into a temporary folder, verified.

    Raises:
        MissingResourceError: there is no bundle.
        StoreError: the store cannot be read, or the weights fail their hash.
    """
    from distillery.models.bundle import fetch_bundle

    with TemporaryDirectory() as folder:
        yield fetch_bundle(uri, Path(folder))
