"""State dicts that say which version each of their modules was written by, so that hooks which convert old ones know what they get."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Self

from torch import Tensor, nn


class Weights(OrderedDict[str, Tensor]):
    """Tensors by name, with what torch writes beside a state dict: module path -> {"version": n}.

    A module's `_load_from_state_dict` is told its own entry. One that is told nothing takes the tensors for those of its first version.

    Args:
        tensors: by name.
        versions: by module path, "" the network itself; what is no such mapping counts as none.
    """

    def __init__(self, tensors: Mapping[str, Tensor], versions: object = None) -> None:
        super().__init__(tensors)
        known = versions.items() if isinstance(versions, Mapping) else ()
        # torch's name for it, read by `Module.load_state_dict`
        self._metadata: dict[str, Any] = {path: entry for path, entry in known if isinstance(path, str) and isinstance(entry, Mapping)}

    @classmethod
    def written_by(cls, module: nn.Module, tensors: Mapping[str, Tensor]) -> Self:
        """Tensors that such a module wrote itself, in a format without versions: they are of the version that it has."""
        return cls(tensors, getattr(module.state_dict(), "_metadata", None))

    def renamed(self, rename: Callable[[str], str]) -> Self:
        """The same under other names; `rename` is given full names, such as `module.head.weight`, and prefixes, such as `module.`."""
        versions = {rename(f"{path}." if path else "").removesuffix("."): entry for path, entry in self._metadata.items()}
        return type(self)({rename(name): item for name, item in self.items()}, versions)

    def below(self, prefix: str) -> Self:
        """Those whose names begin with a prefix, such as `module.`, without it; with "" all of them."""
        tensors = {name.removeprefix(prefix): item for name, item in self.items() if name.startswith(prefix)}
        full = {f"{path}." if path else "": entry for path, entry in self._metadata.items()}
        versions = {path.removeprefix(prefix).removesuffix("."): entry for path, entry in full.items() if path.startswith(prefix)}
        return type(self)(tensors, versions)

    def completed(self, tensors: Mapping[str, Tensor]) -> Self:
        """With tensors that are lacking."""
        return type(self)({**tensors, **self}, self._metadata)
