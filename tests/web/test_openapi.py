"""The description of the interface, for programs and for people: it says what is so."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from aiohttp import ClientSession, web
from asking import NOW, Api, configured

from marketd.clock import ManualClock
from marketd.daemon import Daemon
from marketd.web.app import make_app

HERE = Path(__file__).parent
PATIENCE_S = 120
# Not for OpenAPI: where a browser is sent on, and the WebSocket.
UNDESCRIBED = {"/", "/api/v1/stream"}


async def document_of(api: Api) -> dict[str, Any]:
    return await api.get("/openapi.json")


async def test_schemathesis_finds_nothing_to_complain_about(daemon: Daemon, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(HERE / "schemathesis.toml")),
        *("run", f"{daemon.url}/openapi.json"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
    # Those of the plugins that are installed are among them.
    selected = re.search(r"Selected: (\d+)/(\d+)\n +Tested: (\d+)", said.decode())
    assert selected
    assert len({*selected.groups()}) == 1
    assert int(selected[1]) >= 17


async def test_the_document_is_valid_openapi_3_1(api: Api) -> None:
    document = await document_of(api)
    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(document).validate()
    del document["paths"]["/healthz"]["get"]["responses"]["200"]["description"]
    with pytest.raises(ValueError, match="description"):
        schemathesis.openapi.from_dict(document).validate()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[web.Application]:
    """The applications that daemons make from now on."""
    applications: list[web.Application] = []

    def make(**parts: Any) -> web.Application:
        applications.append(make_app(**parts))
        return applications[-1]

    monkeypatch.setattr("marketd.daemon.make_app", make)
    return applications


async def test_every_route_is_described_with_exactly_the_keys_that_it_takes(
    made: list[web.Application], api: Api
) -> None:
    described = {
        (method.upper(), path): {
            one["name"]: one["required"] for one in told["parameters"] if one["in"] == "query"
        }
        for path, operations in (await document_of(api))["paths"].items()
        for method, told in operations.items()
    }
    (app,) = made
    taken = {}
    for route in app.router.routes():
        assert route.resource is not None
        schemas: list[dict[str, Any]] = getattr(route.handler, "__schemas__", [])
        (wanted,) = [one for one in schemas if one["location"] == "querystring"]
        fields = wanted["schema"].fields.items()
        taken[route.method, route.resource.canonical] = {name: field.required for name, field in fields}
    assert {path for method, path in taken if (method, path) not in described} == UNDESCRIBED
    assert {one: taken[one] for one in described} == described


async def test_two_applications_in_one_process_both_validate_and_describe(
    api: Api, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Daemon(configured(tmp_path / "other"), clock=ManualClock(NOW))
    await other.start()
    try:
        async with ClientSession(other.url) as session:
            for one in (api, Api(session)):
                assert (await one.refused(400, "/api/v1/ohlcv", {"limit": 0}))["code"] == "invalid_input"
                assert len((await one.ohlcv(limit=3))["bars"]) == 3
            assert await document_of(Api(session)) == await document_of(api)
            async with session.get("/docs") as here, api.session.get("/docs") as there:
                assert await here.text() == await there.text()
    finally:
        await other.stop()


async def test_every_answer_has_a_place_in_the_document_for_whatever_it_may_be(api: Api) -> None:
    for path, operations in (await document_of(api))["paths"].items():
        for method, told in operations.items():
            answers = told["responses"]
            assert len({"200", "201"} & set(answers)) == 1, (method, path)
            assert list(answers["default"]["content"]) == ["application/problem+json"]
            assert all(answer["description"] for answer in answers.values())
    formats = (await document_of(api))["paths"]["/api/v1/ohlcv"]["get"]["responses"]["200"]["content"]
    assert list(formats) == ["application/json", "text/csv", "application/vnd.apache.arrow.stream"]
