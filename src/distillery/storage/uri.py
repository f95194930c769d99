"""From a URI to its store."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from distillery.errors import ConfigError
from distillery.extras import need
from distillery.storage.base import Store, check_key
from distillery.storage.folder import FolderStore

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


def open_store(uri: str) -> Store:
    """The store at a path, a file:// or an s3:// URI; a relative path is taken from the current folder. Nothing is asked of a server yet.

    Raises:
        ConfigError: an empty URI, or one of a kind that does not work.
    """
    if not uri.strip():
        raise ConfigError("The store's URI is empty: give a folder, such as ./store, or s3://bucket/prefix.")
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return FolderStore(Path(uri).expanduser())
    if scheme[1].lower() == "s3":
        return _open_bucket(uri)
    if scheme[1].lower() != "file":
        raise ConfigError(f"The URI {uri!r} is not supported: give a local path, a file:// or an s3:// URI.")
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"The URI {uri!r} names the host {parts.netloc!r}: write file:///{parts.netloc}{parts.path} for a local path.")
    return FolderStore(Path(unquote(parts.path) or "/"))


def _open_bucket(uri: str) -> Store:
    bucket, _, prefix = uri[len("s3://") :].rstrip("/").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(
            f"The URI {uri!r} names no bucket that can be: give 3 to 63 letters, digits, dots and hyphens, such as s3://bucket/prefix."
        )
    if "?" in prefix or "#" in prefix:
        raise ConfigError(f"The URI {uri!r} carries a query: give s3://bucket/prefix, and the server's address in AWS_ENDPOINT_URL_S3.")
    need("s3", f"The store {uri!r}")
    from distillery.storage.s3 import S3Store  # boto3 only for who needs it: it takes a good part of a second to import

    return S3Store(bucket, check_key(prefix) if prefix else "")


def split_uri(uri: str) -> tuple[str, str]:
    """The URI of the folder that holds an object, and the object's key in it.

    Raises:
        ConfigError: the URI names no object, such as an empty one or one that ends in a slash.
    """
    folder, slash, name = uri.rpartition("/")
    if name in ("", ".", "..") or folder.endswith(":/"):
        raise ConfigError(f"The URI {uri!r} names no file: end it with a file's name.")
    # only file:// escapes its names; a key of S3 is written as it is
    return (folder or "/") if slash else ".", unquote(name) if uri.lower().startswith("file://") else name


def read_uri(uri: str) -> bytes:
    """The bytes of one object anywhere that `open_store` reaches.

    Raises:
        ConfigError: the URI is of no supported kind.
        MissingResourceError: there is no such object.
        StoreError: it cannot be read.
    """
    folder, key = split_uri(uri)
    return open_store(folder).read(key)


def join_uri(base: str, *parts: str) -> str:
    """The URI of the keys `parts` below `base`."""
    keys = [check_key(part) for part in parts]
    start = base if base.endswith("/") else f"{base}/"
    return start + "/".join(keys) if keys else base
