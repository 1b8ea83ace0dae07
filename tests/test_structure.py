"""Imports of the package: no circles, and only to lower floors."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "tfjointrd"
FLOORS = {
    **dict.fromkeys(["extras", "files", "lazy", "pixel_ranges", "progress", "silence", "stacklevel"], 0),
    **dict.fromkeys(["layers", "models", "data"], 1),
    "surgery": 2,
    **dict.fromkeys(["training", "report", "export"], 3),
    **dict.fromkeys(["experiments", "command_line_options", "file_commands", "prune_command", "tables_command"], 4),
    **dict.fromkeys(["__main__", "__init__"], 5),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = {name_of(path) for path in ROOT.rglob("*.py")}


def file_of(module: str) -> str | None:
    """The file of a module of this package, `None` for others."""
    package, *parts = module.split(".")
    if package != "tfjointrd":
        return None
    inner = "/".join(parts)
    return next((f for f in (f"{inner}.py", f"{inner}/__init__.py".lstrip("/")) if f in FILES), None)


def imports(path: Path) -> set[str]:
    """The files that a file imports, within functions and for type checks too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(file_of(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.update(file_of(f"{node.module}.{a.name}") or file_of(node.module) for a in node.names)
    return found - {None, name_of(path)}


GRAPH = {name_of(path): imports(path) for path in ROOT.rglob("*.py")}


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The sets of files that import each other, at once or through others."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen, pending = set(), [start]
        while pending:
            new = graph[pending.pop()] - seen
            seen |= new
            pending.extend(new)
        reached[start] = seen
    found = {tuple(sorted(b for b in reached[a] if a in reached[b])) for a in graph if a in reached[a]}
    return sorted(found)


def part(file: str) -> str:
    """The folder of a file, or its name at the top."""
    return file.partition("/")[0].removesuffix(".py")


def test_imports_are_found():
    assert len(GRAPH) > 70 and sum(map(len, GRAPH.values())) > 200
    assert "surgery/graph.py" in GRAPH["surgery/read_graph.py"]
    assert "surgery/__init__.py" in GRAPH["__init__.py"]
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert circles(graph) == [("b", "c")] and circles({**graph, "c": {"d"}}) == []


def test_no_two_files_import_each_other():
    assert circles(GRAPH) == []


def test_no_two_folders_import_each_other():
    folders: dict[str, set[str]] = {part(file): set() for file in GRAPH}
    for file, others in GRAPH.items():
        folders[part(file)] |= {part(other) for other in others} - {part(file)}
    assert circles(folders) == []


def test_imports_point_downwards():
    assert {part(file) for file in GRAPH} == FLOORS.keys(), "each has a floor"
    upward = [
        f"{file} -> {other}"
        for file, others in GRAPH.items()
        for other in others
        if FLOORS[part(other)] > FLOORS[part(file)]
    ]
    assert upward == []
