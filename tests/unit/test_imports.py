"""Imports point one way: no circle of modules, and none of rooms (the folders of `rft`)."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def imports(repository: Path) -> dict[str, set[str]]:
    """{module: the modules of ours that it imports, at its top or later}."""
    paths = {
        ".".join(path.relative_to(repository).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ("rft", "reward")
        for path in (repository / package).rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                named = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= (named & paths.keys()) or ({node.module} & paths.keys())
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & paths.keys()
    return found


def test_no_module_imports_itself_through_others(imports):
    assert len(imports) > 150
    assert list(TopologicalSorter(imports).static_order())


def test_no_room_imports_itself_through_others(imports):
    def room(module: str) -> str:
        parts = module.split(".")
        return parts[1] if parts[0] == "rft" and len(parts) > 2 else module if parts[0] == "rft" else "reward"

    rooms: dict[str, set[str]] = {}
    for module, others in imports.items():
        rooms.setdefault(room(module), set()).update({room(other) for other in others} - {room(module)})
    assert "evaluate" in rooms["toy"]
    assert list(TopologicalSorter(rooms).static_order())
