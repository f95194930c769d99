"""Bytes in and out of a store: a folder, a bucket of an S3 server, or this process's memory."""

from distillery.storage.base import Store, check_key
from distillery.storage.folder import FolderStore
from distillery.storage.memory import MemoryStore
from distillery.storage.uri import join_uri, open_store, read_uri, split_uri

__all__ = ["FolderStore", "MemoryStore", "Store", "check_key", "join_uri", "open_store", "read_uri", "split_uri"]
