"""`pip install ./contrib_plugins/marketd-ccxt` beside marketd, in an environment that is new."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from marketd import __version__

ROOT = Path(__file__).resolve().parents[3]
PACKAGED = ("marketd", "marketd_ccxt", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
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
        spec = find_spec("ccxt")
        assert spec is not None
        assert spec.origin is not None
        for one in Path(spec.origin).parents[1].iterdir():
            if "marketd" not in one.name and one.name != "__pycache__":
                (self.site / one.name).symlink_to(one)

    def install(self, *sources: Path) -> None:
        """pip install of copies of `sources`: a build leaves things behind."""
        copies = [self._folder / source.name for source in sources]
        for source, copy in zip(sources, copies, strict=True):
            copy.mkdir()
            for part in (one for name in PACKAGED for one in source.glob(name)):
                if part.is_dir():
                    shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(part, copy)
        pip = [sys.executable, "-m", "pip", "--python", str(self._bin / "python"), "install", "--quiet"]
        # What is needed beside it is there; pip would only ask the network whether there is newer.
        self._run(*pip, "--no-deps", "--no-build-isolation", "--no-index", *map(str, copies))

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The address of a daemon without a configuration."""
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
                yield process.stdout.readline().split()[-1]
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


def test_after_a_restart_it_is_listed_and_a_broken_plugin_beside_it_has_a_line_of_its_own(
    tmp_path: Path,
) -> None:
    environment = Environment(tmp_path)
    environment.install(ROOT, ROOT / "contrib_plugins" / "marketd-ccxt")
    for name, content in BROKEN.items():
        (environment.site / name).parent.mkdir(exist_ok=True)
        (environment.site / name).write_text(content, encoding="utf-8")
    with environment.serving() as url:
        lines = environment.plugins(url)
    first = lines.index("provider plugin markets state message")
    plugins, providers = lines[1 : first - 1], lines[first + 1 :]
    (broken,) = (line for line in plugins if line.startswith("broken broken 1.0 failed: "))
    assert "ModuleNotFoundError" in broken
    assert set(plugins) - {broken} == {
        "ccxt marketd-ccxt 0.1.0 ccxt",
        f"replay marketd {__version__} replay",
        f"sim marketd {__version__} sim",
    }
    # Kraken is tried by itself: on a machine with a network it may be up by now.
    assert [line.split()[:3] for line in providers] == [
        ["sim", "sim", "crypto,"],
        ["kraken", "ccxt", "crypto"],
    ]
