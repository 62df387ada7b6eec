"""`pip install ./contrib_plugins/marketd-ccxt` beside marketd, in an environment that is new."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ccxt
import pytest

from marketd import __version__

ROOT = Path(__file__).resolve().parents[3]
BROKEN = {
    "broken_plugin.py": "import a_package_that_is_not_there\n",
    "broken-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n",
    "broken-1.0.dist-info/entry_points.txt": "[marketd]\nbroken = broken_plugin\n",
}


class Environment:
    """A virtual environment with what marketd and ccxt need, as if pip had downloaded it."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "env", with_pip=False, symlinks=True)
        self._folder = folder
        self._bin = folder / "env" / "bin"
        (self.site,) = (folder / "env" / "lib").glob("python*/site-packages")
        for one in Path(ccxt.__file__).parents[1].iterdir():
            if "marketd" not in one.name and one.name != "__pycache__":
                (self.site / one.name).symlink_to(one)

    def install(self, source: Path, *parts: str) -> None:
        """pip install of a copy of `source`, or of these parts of it: a build leaves things behind."""
        copy = self._folder / source.name
        copy.mkdir()
        for part in parts or [one.name for one in source.iterdir() if "egg-info" not in one.name]:
            if (source / part).is_dir():
                shutil.copytree(source / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source / part, copy / part)
        pip = [sys.executable, "-m", "pip", "--python", str(self._bin / "python"), "install", "--quiet"]
        # What is needed beside it is there; pip would only ask the network whether there is newer.
        self._run(*pip, "--no-deps", "--no-build-isolation", "--no-index", str(copy))

    @contextmanager
    def serving(self) -> Iterator[tuple[str, int]]:
        """A daemon without a configuration: its address and its process."""
        process = subprocess.Popen(
            [self._bin / "marketd", "serve", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self._environ(),
        )
        assert process.stdout is not None
        try:
            with process.stdout:
                yield process.stdout.readline().split()[-1], process.pid
        finally:
            process.terminate()
            process.wait(20)

    def plugins(self, url: str) -> list[str]:
        """The lines of `marketd plugins`, without their spacing."""
        printed = self._run(self._bin / "marketd", "plugins", "--url", url)
        return [" ".join(line.split()) for line in printed.splitlines()]

    def _environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MARKETD_")}
        return kept | {"MARKETD_STORAGE__URL": f"sqlite:///{self._folder / 'marketd.db'}"}

    def _run(self, *command: str | Path) -> str:
        done = subprocess.run(
            command, env=self._environ(), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("clean"))
    environment.install(ROOT, "marketd", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
    environment.install(ROOT / "contrib_plugins" / "marketd-ccxt")
    return environment


def test_a_restart_lists_it_and_a_broken_plugin_beside_it_changes_nothing_else(
    environment: Environment,
) -> None:
    with environment.serving() as (url, pid):
        before = environment.plugins(url)
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    assert "ccxt marketd-ccxt 0.1.0 ccxt" in before
    assert f"sim marketd {__version__} sim" in before
    assert "kraken ccxt crypto idle" in before
    # It is there and costs nothing: an import of ccxt alone is some 80 MB.
    (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    assert int(resident) * 1024 < 100e6, resident
    for name, content in BROKEN.items():
        (environment.site / name).parent.mkdir(exist_ok=True)
        (environment.site / name).write_text(content, encoding="utf-8")
    with environment.serving() as (url, _):
        after = environment.plugins(url)
    (added,) = set(after) - set(before)
    assert added.startswith("broken broken 1.0 failed: ModuleNotFoundError")
    assert [line for line in after if line != added] == before
