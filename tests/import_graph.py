"""Who imports whom, read from the sources: circles among modules, and the page that draws the rooms with the arrows between them.

`make graph` writes docs/architecture.md; a test says when it is out of date. What only a type checker sees is left out: it never runs.
"""

import ast
import configparser
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PLATFORM = ("cli", "demo", "runner", "registrar", "pipelines", "components")
"""Floors above the library, the topmost first; `pipelines` are the modules right below it."""
Graph = dict[str, set[str]]


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name -> file of every module of both packages."""
    packages = {
        "distillery": root / "src" / "distillery",
        "distillery_kfp.pipelines": root / "pipelines",
        "distillery_kfp.components": root / "components",
    }
    return {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for package, folder in packages.items()
        for path in sorted(folder.rglob("*.py"))
    }


def imports(paths: Mapping[str, Path]) -> Graph:
    """Module -> the modules that it imports anywhere, within functions too."""
    return {name: set(_named(ast.parse(path.read_text(encoding="utf-8")), paths)) - {name} for name, path in paths.items()}


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of modules of which each leads to each other one, sorted."""
    reach = {name: _reach(name, graph) for name in graph}
    groups = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph if name in reach[name]}
    return sorted(map(list, groups))


def rooms(graph: Mapping[str, Iterable[str]]) -> Graph:
    """Room -> the rooms that its modules import; a module right below a package is a room of the library, or belongs to `pipelines`."""
    found: Graph = {}
    for name, others in graph.items():
        if room := room_of(name):
            found.setdefault(room, set()).update({other for other in map(room_of, others) if other} - {room})
    return found


def room_of(module: str) -> str:
    """The room of a module, "" of the library's own package, which only tells what is public."""
    parts = module.split(".")
    if parts[0] == "distillery":
        return parts[1] if len(parts) > 1 else ""
    inner = parts[2] if len(parts) > 2 else ""
    return inner if parts[1] == "pipelines" and inner in PLATFORM else parts[1]


def floors() -> list[list[str]]:
    """Rooms by floor, the topmost first: those of the platform, then the library's as the import contracts have them."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    layers = contracts["importlinter:contract:layers"]["layers"].split("\n")
    library = [[room.strip(" ()") for room in line.replace("|", ":").split(":")] for line in layers if line.strip()]
    return [*([room] for room in PLATFORM), *library]


def direct(graph: Mapping[str, set[str]]) -> Graph:
    """The graph without the arrows that others imply: where a way leads there anyway, the arrow is left out."""
    reach = {name: _reach(name, graph) for name in graph}
    return {
        name: {other for other in others if not any(other in reach[middle] for middle in others - {other})}
        for name, others in graph.items()
    }


def page() -> str:
    """docs/architecture.md."""
    paths = sources()
    between = rooms(imports(paths))
    said = {room: _says(room, paths) for room in between}
    lines = [
        "# Rooms and arrows",
        "",
        "Written by `make graph` from the sources; a test says when it is out of date. Each room imports only from floors below its own,",
        "which `.importlinter` holds. An arrow is left out where others lead to the same place. Type-checking imports do not count.",
        "",
        "```mermaid",
        "flowchart TD",
    ]
    for number, floor in enumerate(floors()):
        names = [room for room in floor if room in between]
        lines += [f'  subgraph floor{number}[" "]', "    direction LR", *(f"    {room}" for room in names), "  end"] if names else []
    lines += [f"  {room} --> {other}" for room, others in direct(between).items() for other in sorted(others)]
    lines += ["```", "", "| floor | room | what it is | imports |", "|---|---|---|---|"]
    for number, floor in enumerate(reversed(floors())):
        for room in floor:
            if room in between:
                lines.append(f"| {number} | {room} | {said[room]} | {', '.join(sorted(between[room]))} |")
    return "\n".join(lines) + "\n"


def _named(tree: ast.AST, paths: Mapping[str, Path]) -> Iterator[str]:
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in paths)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if name in paths)
            if node.module in paths and not all(name in paths for name in names):
                yield node.module


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _running(child)


def _reach(name: str, graph: Mapping[str, Iterable[str]]) -> set[str]:
    found: set[str] = set()
    coming = list(graph.get(name, ()))
    while coming:
        other = coming.pop()
        if other not in found:
            found.add(other)
            coming += graph.get(other, ())
    return found


def _says(room: str, paths: Mapping[str, Path]) -> str:
    """The first line of a room's own docstring."""
    names = (f"distillery.{room}", f"distillery_kfp.pipelines.{room}", f"distillery_kfp.{room}")
    path = next(paths[name] for name in names if name in paths)
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0].replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
