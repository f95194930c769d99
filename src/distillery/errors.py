"""Every error that a user can cause, drawn once.

    DistilleryError
    ├── ConfigError               a value that is not allowed (also a ValueError)
    ├── MissingResourceError      a file, shard, bundle or endpoint that is not there
    ├── CheckpointMismatchError   bytes that belong to another teacher, config or format version
    └── StoreError                a store that cannot be read or written, or bytes that fail their hash

Each message is one sentence that names the value, what is allowed and what to do. The command line catches `DistilleryError`
only: anything else is our own bug and shows its traceback.
"""

from distillery.redaction import redact


class DistilleryError(Exception):
    """Root of the errors that a user can cause; a password in its sentence is hidden when it is made, wherever it is shown later."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact(part) if isinstance(part, str) else part for part in args))


class ConfigError(DistilleryError, ValueError):
    """A value that is not allowed: unknown key, wrong type, impossible combination."""


class MissingResourceError(DistilleryError):
    """Something named by the user or by a manifest does not exist."""


class CheckpointMismatchError(DistilleryError):
    """Bytes that belong to another teacher, another configuration or a newer format."""


class StoreError(DistilleryError):
    """A store that cannot be read or written, or bytes that do not match their hash."""
