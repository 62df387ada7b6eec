"""Contributed plugins stand on the public API alone, and nothing stands on them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from marketd.plugins import hookspecs

ROOT = Path(__file__).resolve().parents[2]
CONTRIB = ROOT / "contrib_plugins"
SOURCES = [path for path in CONTRIB.rglob("*.py") if path.parent.name not in ("tests", "build")]
PACKAGES = {path.name for path in CONTRIB.glob("marketd-*/marketd_*") if path.is_dir()}


def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_contributed_plugin_imports_the_public_api_alone(path: Path) -> None:
    of_marketd = {name for name in imported(path) if name.split(".")[0] == "marketd"}
    public = {"marketd.plugins", "marketd.plugins.http"}
    allowed = {name for name in of_marketd if name in public or ".domain." in name}
    assert of_marketd == allowed


def test_the_core_imports_no_contributed_plugin() -> None:
    assert PACKAGES
    for path in (ROOT / "marketd").rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & PACKAGES, path


@pytest.mark.parametrize("folder", sorted(CONTRIB.glob("marketd-*")), ids=lambda path: path.name)
def test_it_is_a_package_with_a_licence_and_a_readme(folder: Path) -> None:
    packaging = (folder / "pyproject.toml").read_text(encoding="utf-8")
    assert 'license = "MIT"' in packaging
    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {folder.name}\n")


def test_every_hook_is_used_by_a_package_that_is_shipped() -> None:
    used = {
        name
        for path in SOURCES
        for name in re.findall(
            r"^@hookimpl\ndef (\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert used == {name for name, hook in vars(hookspecs).items() if hasattr(hook, "marketd_spec")}
