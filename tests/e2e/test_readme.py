"""What the README says works as it stands."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from servers.nodejs import node

Launch = Callable[..., Any]

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
SOCKETS = Path(__file__).resolve().parents[1] / "servers" / "sockets"
SIM = '[providers.sim]\nplugin = "sim"\n'


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def at(text: str, url: str) -> str:
    """The text for a daemon at another port."""
    return text.replace("127.0.0.1:8710", url.removeprefix("http://"))


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    return output.decode()


async def test_the_curl_commands(launch: Launch) -> None:
    daemon = await launch(SIM)
    commands = re.findall(r"^curl (?:.*\\\n)*.*$", "\n".join(blocks("sh")), re.MULTILINE)
    assert len(commands) == 3
    # Only what they ask is taken from them: a machine that runs the tests need not have curl.
    async with aiohttp.ClientSession() as session:
        answers = []
        for command in commands:
            _, address, *options = shlex.split(at(command, daemon.url).replace("\\\n", ""))
            headers = dict([options[1].split(": ")]) if options else None
            body = options[3] if options else None
            method = "POST" if options else "GET"
            async with session.request(method, address, headers=headers, data=body) as response:
                assert response.ok
                answers.append(await response.json())
    assert answers[0]["markets"]
    assert len(answers[1]["bars"]) == 100
    assert answers[2]["state"] in ("pending", "running")


async def heard(*command: str | Path, cwd: Path | None = None) -> dict[str, Any]:
    """The first message of each type that a client prints, until it has had a bar."""
    # A terminal's input stays open, too.
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=cwd)
    try:
        assert process.stdout is not None
        seen: dict[str, Any] = {}
        async with asyncio.timeout(60):
            while "bar" not in seen:
                message = json.loads(await process.stdout.readline())
                seen.setdefault(message["type"], message)
    finally:
        process.kill()
        await process.communicate()
    return seen


async def test_the_websocket_client_in_python(launch: Launch) -> None:
    daemon = await launch(SIM)
    (source,) = (one for one in blocks("python") if "websockets" in one)
    seen = await heard(sys.executable, "-u", "-c", at(source, daemon.url))
    assert list(seen) == ["subscribed", "snapshot", "bar"]
    assert 55 <= len(seen["snapshot"]["bars"]) <= 60


async def test_the_websocket_client_in_node(launch: Launch) -> None:
    daemon = await launch(SIM)
    (source,) = blocks("js")
    seen = await heard(node(), "--input-type=module", "-e", at(source, daemon.url), cwd=SOCKETS)
    assert list(seen) == ["subscribed", "snapshot", "bar"]
    assert 55 <= len(seen["snapshot"]["bars"]) <= 60


async def test_the_websocket_client_in_a_terminal(launch: Launch) -> None:
    daemon = await launch(SIM)
    (block,) = (one for one in blocks("sh") if "wscat" in one)
    npx, wscat, *options = shlex.split(at(block, daemon.url).replace("\\\n", ""))
    assert (npx, wscat) == ("npx", "wscat")
    seen = await heard(node(), SOCKETS / "node_modules/wscat/bin/wscat", *options)
    assert list(seen) == ["subscribed", "bar"]


async def test_the_client_that_comes_along(launch: Launch) -> None:
    daemon = await launch(SIM)
    (source,) = (one for one in blocks("python") if "MarketdClient" in one)
    source = source.replace("MarketdClient()", f"MarketdClient({daemon.url!r})")
    assert (await run(sys.executable, "-c", source)).strip().endswith("True")
