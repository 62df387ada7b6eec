"""The template is a package that installs, is found, passes its tests, and is what the guide shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "contrib_plugins" / "template"
CODE = {".toml", ".py"}
BROKEN = {
    "broken_plugin.py": "import a_package_that_is_not_there\n",
    "broken-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n",
    "broken-1.0.dist-info/entry_points.txt": "[marketd]\nbroken = broken_plugin\n",
}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the template."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    shutil.copytree(TEMPLATE, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run("pip", "install", *options, "--target", str(folder / "site"), str(source))
    return folder / "site"


def run(*module: str, path: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *module],
        env={**os.environ, "PYTHONPATH": str(path or ""), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def plugins(path: Path) -> list[str]:
    """The lines of `marketd plugins`, without their spacing."""
    printed = run("marketd", "plugins", "--url", "http://127.0.0.1:1", path=path)
    return [" ".join(line.split()) for line in printed.splitlines()]


def test_marketd_lists_it_once_it_is_installed(installed: Path) -> None:
    assert "acme marketd-acme 0.1.0 acme" in plugins(installed)


def test_a_broken_plugin_beside_it_changes_nothing_but_its_own_line(
    installed: Path, tmp_path: Path
) -> None:
    before = plugins(installed)
    both = tmp_path / "site"
    shutil.copytree(installed, both)
    for name, content in BROKEN.items():
        (both / name).parent.mkdir(exist_ok=True)
        (both / name).write_text(content, encoding="utf-8")
    after = plugins(both)
    (added,) = set(after) - set(before)
    assert added.startswith("broken broken 1.0 failed: ModuleNotFoundError")
    assert [line for line in after if line != added] == before


def test_its_own_tests_pass(installed: Path) -> None:
    """With nothing of this project's test setup, as they would run elsewhere."""
    options = ["-c", os.devnull, "--rootdir", str(TEMPLATE), "-p", "no:cacheprovider"]
    told = run("pytest", *options, "-W", "error", str(TEMPLATE / "tests"), path=installed)
    assert re.search(r"\b1[0-9] passed", told), told


def test_the_package_is_under_a_hundred_lines() -> None:
    files = (TEMPLATE / "pyproject.toml", TEMPLATE / "marketd_acme.py")
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < 100


@pytest.mark.parametrize("language", ["toml", "python"])
def test_the_code_of_the_guide_is_the_template_s(language: str) -> None:
    guide = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", guide, re.DOTALL)
    assert blocks
    sources = [lines(file.read_text("utf-8")) for file in TEMPLATE.rglob("*.*") if file.suffix in CODE]
    for block in blocks:
        assert any(lines(block) in source for source in sources), block


def lines(code: str) -> str:
    """`code` without indentation and empty lines: the formatter has its own for a block in a text."""
    return "\n" + "\n".join(line.strip() for line in code.splitlines() if line.strip()) + "\n"


def test_every_method_of_the_template_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
    source = (TEMPLATE / "marketd_acme.py").read_text(encoding="utf-8")
    for name in re.findall(r"^(?:class|@|def |async def )(\w+)", source, re.MULTILINE):
        assert name in guide, name


def test_the_configuration_of_the_guide_is_one() -> None:
    guide = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```ini\n(.*?)```", guide, re.DOTALL)
    acme = tomllib.loads(block)["providers"]["acme"]
    assert acme["plugin"] == "acme"
    assert set(acme["credentials"]) == {"key"}
