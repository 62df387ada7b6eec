"""The docs and the code say the same."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from marketd.cli import main
from marketd.config import HistoryConfig, declared_settings, kept_settings
from marketd.domain.coverage import GAP_REASONS
from marketd.domain.errors import MarketdError
from marketd.metrics import Metrics
from marketd.plugins import hookspecs
from marketd.plugins.replay.settings import ReplaySettings
from marketd.plugins.sim.settings import SimSettings
from marketd.web.app import make_app
from marketd.web.ws import commands

ROOT = Path(__file__).resolve().parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(name: str, heading: str = "") -> list[list[str]]:
    """The cells of the first table after a heading."""
    after = text(name).split(f"\n{heading}\n", 1)[1] if heading else text(name)
    table = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert table, f"no table in {name} after {heading!r}"
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table[0].splitlines()]
    return [[cell.strip() for cell in row] for row in cells[2:]]


def test_every_setting_is_in_the_docs_with_its_default_and_meaning() -> None:
    documented = rows("docs/settings.md")
    assert documented == [
        [f"`{one.section}.{one.key}`", one.type, f"`{one.default}`", one.help]
        for one in declared_settings()
    ]


def test_every_key_of_a_backfill_is_in_the_docs_with_its_default_and_meaning() -> None:
    assert rows("docs/settings.md", "## `[[backfill]]`") == [
        [f"`{one.key}`", one.type, f"`{one.default}`" if one.default else "", one.help]
        for one in kept_settings()
    ]


def test_the_default_backfill_depth_is_ten_years() -> None:
    assert HistoryConfig().depth == 10 * 365 * 86_400_000
    assert ["`history.depth`", "duration", '`"10y"`'] in [row[:3] for row in rows("docs/settings.md")]


def test_every_metric_is_in_the_docs() -> None:
    declared = []
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            declared.append([f"`{name}`", family.type, labels, family.documentation])
    assert rows("docs/metrics.md") == declared


def test_every_hook_is_in_the_docs_with_its_arguments() -> None:
    declared = {
        f"`{name}{inspect.signature(function).replace(return_annotation=inspect.Signature.empty)}`"
        for name, function in vars(hookspecs).items()
        if name.startswith("marketd_")
    }
    assert {row[0] for row in rows("docs/plugins.md", "## Hooks")} == declared


@pytest.mark.parametrize(("schema", "table"), [(SimSettings, "**sim**"), (ReplaySettings, "**replay**")])
def test_every_setting_of_a_built_in_plugin_is_in_the_docs(schema: type, table: str) -> None:
    after = text("docs/plugins.md").split(table, 1)[1]
    documented = set(re.findall(r"^\| `(\w+)` \|", after.split("\n\n**")[0], re.MULTILINE))
    assert documented == set(schema().fields)


def test_every_route_is_in_the_docs() -> None:
    routes = set(re.findall(r'_(get|post|delete)\("([^"]+)"', inspect.getsource(make_app)))
    assert routes
    assert {row[0] for row in rows("docs/interface.md", "## REST")} == {
        f"`{method.upper()} {path}`" for method, path in routes
    }


def test_every_error_code_is_in_the_docs() -> None:
    def codes(kind: type[MarketdError]) -> set[str]:
        return {kind.code}.union(*(codes(child) for child in kind.__subclasses__()))

    documented = {
        code
        for row in rows("docs/interface.md", "Errors are RFC 9457 problems with a stable `code`:\n")
        for code in re.findall(r"`(\w+)`", row[1])
    }
    # A configuration or a lock stops the start, and who led before follows: no client ever sees them.
    # Nor is "internal" foreseen.
    unseen = {"config", "storage_locked", "superseded", "internal"}
    assert codes(MarketdError) - unseen <= documented


def test_every_message_that_a_client_may_send_is_in_the_docs() -> None:
    documented = {row[0].strip("`") for row in rows("docs/interface.md", "## WebSocket")}
    assert documented == set(commands._KINDS)


def test_every_message_that_a_client_may_get_is_in_the_docs() -> None:
    sources = [*(ROOT / "marketd/streaming").glob("*.py"), *(ROOT / "marketd/web/ws").glob("*.py")]
    sent = {
        kind for source in sources for kind in re.findall(r'"type": "(\w+)"', source.read_text("utf-8"))
    }
    after = text("docs/interface.md").split("| ← |", 1)[1]
    documented = set(
        re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]+) \|", after, re.MULTILINE)))
    )
    assert sent - set(commands._KINDS) <= documented


def test_every_reason_of_a_gap_is_in_the_docs() -> None:
    told = text("docs/interface.md").split("Reasons of a gap:")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", told)) == set(GAP_REASONS)


def test_every_command_is_in_the_docs() -> None:
    documented = {row[0] for row in rows("docs/interface.md", "## Commands")}
    assert documented == {f"`marketd {name}`" for name in main.commands}


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        *(f"docs/{one.name}" for one in (ROOT / "docs").glob("*.md")),
    ],
)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text(name)):
        if "://" not in target:
            assert ((ROOT / name).parent / target).exists(), target


@pytest.mark.parametrize("target", ["bench", "soak"])
def test_what_make_runs_besides_the_tests_begins(target: str) -> None:
    help_ = subprocess.run(
        [sys.executable, "-m", target, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (help_.returncode, help_.stderr) == (0, "")
    assert f"python -m {target}" in help_.stdout
    assert f"-m {target}" in text("Makefile")
