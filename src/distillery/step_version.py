"""Which version of a step's code this is: the syntax trees of every module that it can reach, without comments and docstrings.

A module is reached by an import anywhere in a reached one, or by its dotted name in a string, which is how the catalogs name what they
load. Sources are read as text, and nothing is imported. What only a type checker sees is left out: it never runs. The public surface in
`distillery/__init__.py` names what it loads relatively and as types only, so that no step reaches it.
"""

import ast
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# in the text of a tree each import stands on a line of its own
_IMPORT = re.compile(r"^\s*import (.+)$", re.MULTILINE)
_FROM = re.compile(r"^\s*from (\.*)([\w.]*) import (.+)$", re.MULTILINE)
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True)
class _Module:
    """A module that was read: its tree as text, and the modules of the same package that it names."""

    text: str
    names: frozenset[str]


class SourceTree:
    """The sources of a package.

    Args:
        folder: of the package, which is called like it.
    """

    def __init__(self, folder: Path) -> None:
        self._package = folder.name
        self._paths = dict(_modules_below(folder))
        self._named = re.compile(rf"""['"]({re.escape(folder.name)}(?:\.\w+)+)(?::\w+)?['"]""")
        self._read: dict[str, _Module] = {}

    def reach(self, module: str) -> frozenset[str]:
        """Every module of the package that a module can reach, itself and the packages around each included.

        Args:
            module: dotted name, such as distillery.steps.materialize.
        """
        assert module in self._paths, f"there is no module {module}"
        found: set[str] = set()
        coming = [module]
        while coming:
            name = coming.pop()
            if name not in found:
                found.add(name)
                coming += [*_parents(name), *self._module(name).names]
        return frozenset(found)

    def version(self, module: str) -> str:
        """sha256 over the names and trees of everything that a module can reach."""
        return digest_parts(part for name in sorted(self.reach(module)) for part in (name.encode(), self._module(name).text.encode()))

    def _module(self, name: str) -> _Module:
        if name not in self._read:
            path = self._paths[name]
            text = tree_text(path.read_bytes(), facade=name == self._package)
            around = name if path.name == "__init__.py" else name.rpartition(".")[0]
            self._read[name] = _Module(text, frozenset(self._names_in(text, around)))
        return self._read[name]

    def _names_in(self, text: str, around: str) -> Iterator[str]:
        """What a text names of the package: by imports, relative ones to the package `around` it, and by strings."""
        for listed in _IMPORT.findall(text):
            yield from (name for name in _listed(listed) if name in self._paths)
        for dots, path, listed in _FROM.findall(text):
            above = around.split(".")[: len(around.split(".")) + 1 - len(dots)] if dots else []
            base = ".".join([*above, *([path] if path else [])])
            everything = (name.rpartition(".")[2] for name in self._paths if name.rpartition(".")[0] == base)
            parts = everything if listed == "*" else _listed(listed)
            yield from (name for name in (base, *(f"{base}.{part}" for part in parts)) if name in self._paths)
        yield from (name for name in self._named.findall(text) if name in self._paths)


@cache
def step_version(step: str) -> str:
    """Version of a step's code, taken once a process; an edit of what it cannot reach, or of a comment, leaves it as it is.

    Args:
        step: name of its module in `distillery.steps`.
    """
    return _own().version(f"{__package__}.steps.{step}")


def tree_text(source: bytes, facade: bool = False) -> str:
    """The syntax tree of a module as text, without comments, docstrings and what only a type checker sees.

    Args:
        source: the file's bytes.
        facade: it is the public face of a package, whose `__all__` lists what others may import and runs nothing.

    Raises:
        SyntaxError: it is no Python of this version.
        ValueError: it holds null bytes.
    """
    with warnings.catch_warnings(action="ignore"):  # what Python says of the author's text
        tree = ast.parse(source)
    _strip(tree)
    if facade:
        tree.body = [statement for statement in tree.body if not _is_surface(statement)]
    return ast.unparse(tree)


def hash_trees(folder: Path) -> str:
    """sha256 over a package of the user's own: the trees of its *.py, the bytes of its *.yaml, by sorted relative path."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.suffix in (".py", ".yaml"))
    return digest_parts(part for name, path in files if path.is_file() for part in (name.encode(), _content(path)))


def hash_module(path: Path) -> str:
    """sha256 over the tree of one module of the user's own."""
    return digest_parts([_content(path)])


def digest_parts(parts: Iterable[bytes]) -> str:
    """sha256 over parts, each preceded by its length, so that moving bytes from one into the next changes it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


@cache
def _own() -> SourceTree:
    return SourceTree(Path(__file__).parent)


def _content(path: Path) -> bytes:
    """What counts of a file: its tree where it is Python, else its bytes."""
    data = path.read_bytes()
    if path.suffix != ".py":
        return data
    try:
        return tree_text(data).encode()
    except (SyntaxError, ValueError, RecursionError):  # such as a template with the suffix of Python
        return data


def _strip(node: ast.AST) -> None:
    """Drop every statement that is only a string, and the bodies of `if TYPE_CHECKING`, in place."""
    for block in _BLOCKS:
        statements = getattr(node, block, None)
        if not isinstance(statements, list):  # the branches of a conditional expression are no blocks
            continue
        kept = [statement for statement in statements if not _is_text(statement)]
        for statement in kept:
            if isinstance(statement, ast.If) and _is_type_checking(statement.test):
                statement.body = [ast.Pass()]
            _strip(statement)
        statements[:] = kept or ([ast.Pass()] if statements and block != "orelse" else [])


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_surface(node: ast.AST) -> bool:
    """Whether a statement is `__all__ = [...]`."""
    return isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name | ast.Attribute) and (test.id if isinstance(test, ast.Name) else test.attr) == "TYPE_CHECKING"


def _listed(names: str) -> Iterator[str]:
    """The names of an import: of `a as b` it is a."""
    return (name.partition(" as ")[0].strip() for name in names.split(","))


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _modules_below(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*.py"):
        parts = [folder.name, *path.relative_to(folder).with_suffix("").parts]
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path
