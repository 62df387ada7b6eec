"""The command line as a user meets it: real processes, against a real daemon."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import click
import pytest
from house import FLAWED, SIM, START, House, M, recorded

from marketd import __version__
from marketd.barfiles.csv_text import csv_row
from marketd.cli import main
from marketd.cli.text import BarFormat, iso, table
from marketd.config import ProviderConfig

BTC = "crypto/sim/BTC/USD"
LONG_S = 60
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("MARKETD_")}


class Ended(NamedTuple):
    """A command that has ended: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


class Running:
    """A command that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """The next line of standard output."""
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), LONG_S)).decode()

    async def ended(self) -> Ended:
        out, err = await asyncio.wait_for(self.process.communicate(), LONG_S)
        assert self.process.returncode is not None
        return Ended(self.process.returncode, (out or b"").decode(), (err or b"").decode())


@asynccontextmanager
async def running(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    out: int = asyncio.subprocess.PIPE,
    err: int = asyncio.subprocess.PIPE,
) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "marketd",
        *arguments,
        stdout=out,
        stderr=err,
        env={**CLEAN, **(env or {})},
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def run(*arguments: str, env: Mapping[str, str] | None = None) -> Ended:
    async with running(*arguments, env=env) as command:
        return await command.ended()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A daemon with the simulated exchange."""
    house = House(tmp_path)
    await house.open()
    yield house
    await house.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration at any free port, with a database of its own."""
    return written(
        tmp_path / "config.toml",
        f'[server]\nport = 0\n[storage]\nurl = "sqlite:///{tmp_path / "served.db"}"\n'
        '[providers.sim]\nplugin = "sim"\n',
    )


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


async def test_help_loads_nothing_that_takes_long() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "importtime", "-m", "marketd", "--help"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, times = await process.communicate()
    assert out.startswith(b"Usage: ")
    loaded = {line.rpartition("|")[2].strip() for line in times.decode().splitlines()}
    assert "marketd.cli" in loaded
    assert not loaded & {"aiohttp", "asyncio", "marshmallow", "numpy", "orjson", "pluggy"}


@pytest.mark.parametrize("name", main.commands)
def test_the_help_of_a_command_has_an_example(name: str) -> None:
    command = main.commands[name]
    text = command.get_help(click.Context(command, info_name=name))
    assert re.search(rf"^  marketd {name}\b", text, re.MULTILINE)


async def test_the_version_is_told() -> None:
    assert await run("--version") == (0, f"marketd, version {__version__}\n", "")


async def test_an_unknown_command_is_a_wrong_option() -> None:
    assert (await run("sevre")).code == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_the_first_screen_of_serve_says_to_try_works(
    config: Path, number: signal.Signals
) -> None:
    async with running("serve", "-c", str(config)) as serve:
        screen = ""
        while "Ctrl-C" not in screen:
            screen += await serve.line()
        (listening, *_) = re.findall(r"answers at (\S+)", screen)
        assert f"{listening}/docs" in screen
        assert str(config.parent / "served.db") in screen
        assert "sim (sim)" in screen
        curls = [shlex.split(line)[1] for line in screen.splitlines() if line.startswith("  curl ")]
        async with aiohttp.ClientSession() as session:
            answers = []
            for address in curls:
                async with session.get(address) as response:
                    answers.append((response.status, await response.json()))
        assert [status for status, _ in answers] == [200, 200]
        assert len(answers[1][1]["bars"]) == 5
        (_, *tail) = shlex.split(re.findall(r"marketd tail.*", screen)[0])
        async with running(*tail) as tailing:
            assert await tailing.line()
        serve.process.send_signal(number)
        code, _, log = await serve.ended()
    assert code == 0
    assert "Traceback" not in log


async def test_host_and_port_go_before_the_file_and_the_environment(config: Path) -> None:
    env = {"MARKETD_SERVER__PORT": "1", "MARKETD_SERVER__HOST": "192.0.2.1"}
    arguments = ("serve", "-c", str(config), "--host", "127.0.0.2", "--port", "0")
    async with running(*arguments, env=env) as serve:
        assert "http://127.0.0.2:" in await serve.line()


async def test_a_port_in_use_is_one_message(config: Path, house: House) -> None:
    code, out, err = await run("serve", "-c", str(config), "--port", house.url.rpartition(":")[2])
    assert code == 2
    assert out == ""
    assert "Address already in use" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["serve", "check-config"])
async def test_a_configuration_that_cannot_be_used_ends_with_2_and_every_problem(
    config: Path, command: str
) -> None:
    written(config, '[server]\nport = "x"\nhots = "here"\n')
    code, out, err = await run(command, "-c", str(config))
    assert (code, out) == (2, "")
    assert "server.port" in err
    assert "server.hots" in err
    assert "Traceback" not in err


async def test_check_config_prints_what_is_in_effect_without_credentials(config: Path) -> None:
    with config.open("a", encoding="utf-8") as file:
        file.write("seed = 7\n")
        file.write('[[backfill]]\nprovider = "sim"\nmarket = "crypto"\n')
        file.write('symbols = ["BTC/USD"]\ntimeframe = "1m"\nsince = "2020-01-01"\n')
    env = {"MARKETD_STREAM__LINGER": "3s"}
    code, out, err = await run("check-config", "-c", str(config), env=env)
    assert (code, err) == (0, "")
    assert out.startswith("ok\n")
    assert 'linger = "3s"' in out
    assert "[providers.sim]\nplugin = 'sim'\nseed = 7\nspeed = 1.0\n" in out
    assert '[[backfill]]\nprovider = "sim"\n' in out
    assert 'since = "2020-01-01T00:00:00Z"\n' in out


async def test_check_config_has_the_plugins_check_their_part_and_tells_no_secret(config: Path) -> None:
    with config.open("a", encoding="utf-8") as file:
        file.write('seed = "x"\n[providers.b]\nplugin = "none"\n[providers.c]\nplugin = "sim"\n')
        file.write('[providers.c.credentials]\nkey = "hush-hush"\n')
        file.write('[[backfill]]\nprovider = "d"\nmarket = "crypto"\n')
        file.write('symbols = ["BTC/USD"]\ntimeframe = "1m"\n')
    code, out, err = await run("check-config", "-c", str(config))
    assert (code, out) == (2, "")
    assert "providers.sim.seed" in err
    assert "providers.b.plugin" in err
    assert "providers.c" in err
    assert "[[backfill]] 1, provider: there is no provider d" in err
    assert "hush-hush" not in err
    assert len(err.splitlines()) == 4


async def test_plugins_are_those_of_the_daemon_with_its_providers(house: House) -> None:
    await house.close()
    await house.open(SIM, ProviderConfig("other", "not-installed"))
    code, out, err = await run("plugins", "--url", house.url)
    assert (code, err) == (0, "")
    assert re.search(rf"^sim +marketd {re.escape(__version__)} +sim$", out, re.MULTILINE)
    assert re.search(r"^sim +sim +crypto, us_equity +idle$", out, re.MULTILINE)
    assert re.search(r"^other +- +- +failed +\S", out, re.MULTILINE)


async def test_plugins_are_loaded_here_where_no_daemon_answers(house: House) -> None:
    await house.close()
    code, out, err = await run("plugins", "--url", house.url)
    assert code == 0
    assert "No daemon answers" in err
    assert re.search(r"^replay +marketd \S+ +replay$", out, re.MULTILINE)


async def test_bars_are_an_aligned_table(house: House) -> None:
    code, out, err = await run("bars", BTC, "1h", "--limit", "3", "--url", house.url)
    assert code == 0
    heading, *rows = out.splitlines()
    assert heading.split() == ["time", "open", "high", "low", "close", "volume"]
    assert [row.split()[0] for row in rows] == [f"2024-03-05T{hour}:00:00Z" for hour in (12, 13, 14)]
    assert {len(row) for row in rows} == {len(heading)}
    assert err == "there is more: --before 2024-03-05T12:00:00Z\n"


async def test_trades_are_a_table_or_csv(house: House) -> None:
    code, out, err = await run("ticks", BTC, "--limit", "3", "--url", house.url)
    assert code == 0
    heading, *rows = out.splitlines()
    assert heading.split() == ["time", "price", "size", "side", "id"]
    assert len(rows) == 3
    assert err.startswith("there is more: --before 2024-03-05T14:")
    since = ("--since", str(START), "--limit", "3", "--csv")
    _, out, err = await run("ticks", BTC, *since, "--url", house.url)
    heading, *rows = out.splitlines()
    assert heading == "timestamp_ms,price,size,side,trade_id"
    assert len(rows) == 3
    assert err.startswith("there is more: --since 2024-03-05T14:")
    code, out, err = await run(
        "ticks", BTC, "--since", "2009-01-01", "--before", "2009-01-02", "--url", house.url
    )
    assert (code, len(out.splitlines()), err) == (0, 1, "no trades.\n")


async def test_bars_as_csv_are_those_of_the_rest_interface(house: House) -> None:
    question = {"market": "crypto", "provider": "sim", "symbol": "BTC/USD", "timeframe": "1m"}
    code, out, err = await run(
        "bars", BTC, "1m", "--since", "2024-03-05", "--before", str(START), "--limit", "9", "--csv",
        "--url", house.url,
    )  # fmt: skip
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"{house.url}/api/v1/ohlcv",
            params={**question, "since": "2024-03-05T00:00:00Z", "limit": 9},
            headers={"Accept": "text/csv"},
        ) as response,
    ):
        assert out == await response.text()
    assert code == 0
    assert err == "there is more: --since 2024-03-05T00:08:00.001Z\n"


async def test_every_kind_of_value_is_told_apart(house: House, tmp_path: Path) -> None:
    await house.close()
    await house.open(recorded(tmp_path))
    since = ("--since", "2024-03-05T15:00+01:00", "--url", house.url)
    _, csv, _ = await run("bars", "odd/files/S0000", "1m", "--csv", *since)
    assert csv.splitlines()[1:] == [
        f"{START},1.5,2.0,0.5,1.25,10.0",
        f"{START + M},,,,,",
        f"{START + 2 * M},NaN,Infinity,-Infinity,NaN,0.0",
        f"{START + 5 * M},3.0,3.0,3.0,3.0,3.0",
    ]
    _, out, err = await run("bars", "odd/files/S0000", "1m", "--fill", "prev", *since)
    rows = [line.split() for line in out.splitlines()[1:]]
    assert rows[0][1:] == ["1.50", "2.00", "0.50", "1.25", "10"]
    assert rows[1][1:] == ["-"] * 5
    assert rows[2][1:] == ["NaN", "Infinity", "-Infinity", "NaN", "0"]
    assert re.search(r"\d+ of these rows are filled in", err)


async def test_aggregates_are_refreshed_of_one_instrument_or_of_all(house: House) -> None:
    assert (await run("bars", BTC, "1m", "--url", house.url)).code == 0
    first = await run(
        "aggregates", "refresh", BTC, "-t", "1m", "--since", "2024-01-01", "--url", house.url
    )
    assert re.fullmatch(r"[1-9]\d* bars computed\.\n", first.out), first
    again = await run("aggregates", "refresh", "--url", house.url)
    assert (again.code, again.out) == (0, "0 bars computed.\n")


async def test_what_is_missing_is_told_on_standard_error(house: House) -> None:
    await house.close()
    await house.open(FLAWED)
    _, out, err = await run("bars", "odd/flawed/X", "1m", "--limit", "40", "--url", house.url)
    assert "2024-03-05T14:02:00Z" in out
    assert "2024-03-05T14:03:00Z" not in out
    gap = "gap 2024-03-05T14:03:00Z to 2024-03-05T14:04:00Z: unrecoverable"
    assert err.splitlines()[:2] == ["incomplete, without:", gap]
    async with running("tail", "odd/flawed/X", "--since", "2024-03-05", "--url", house.url) as tail:
        assert tail.process.stderr is not None
        line = await asyncio.wait_for(tail.process.stderr.readline(), LONG_S)
    assert line.decode() == f"odd/flawed/X: {gap}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["crypto", "1m"], 2, "crypto/sim/BTC/USD"),
        (["crypto/sim/", "1m"], 2, "crypto/sim/BTC/USD"),
        ([BTC], 2, "TIMEFRAME"),
        ([BTC, "1m", "--since", "yesterday"], 2, "2024-03-05"),
        ([BTC, "1m", "--since", "1969-12-31"], 2, "1970"),
        ([BTC, "1m", "--limit", "0"], 2, "1<=x<=10000"),
        ([BTC, "1x"], 1, "timeframe"),
        (["crypto/sim/NO/PE", "1m"], 1, "NO/PE"),
        (["crypto/nope/BTC", "1m"], 1, "nope"),
    ],
)
async def test_a_question_that_makes_no_sense_is_answered_with_a_sentence(
    house: House, arguments: list[str], code: int, says: str
) -> None:
    ended = await run("bars", *arguments, "--url", house.url)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("arguments", [["bars", BTC, "1m"], ["tail"], ["tail", BTC]], ids=" ".join)
async def test_without_a_daemon_it_is_said_how_to_start_one(house: House, arguments: list[str]) -> None:
    await house.close()
    code, out, err = await run(*arguments, "--url", house.url)
    assert (code, out) == (1, "")
    assert err == f"Error: No daemon answers at {house.url}. Start one with: marketd serve\n"


async def test_tail_into_a_pipe_is_a_plain_line_for_every_closed_bar(house: House) -> None:
    async with (
        running("tail", BTC, "--since", "2024-03-05T14:28", "--url", house.url) as tail,
        house.passing_time(),
    ):
        lines = [(await tail.line()).split() for _ in range(6)]
        tail.process.send_signal(signal.SIGINT)
        code, _, err = await tail.ended()
    assert (code, err) == (0, "")
    assert [line[0] for line in lines] == [iso(START + minute * M) for minute in range(28, 34)]
    assert {line[1] for line in lines} == {BTC}
    table = (
        await run("bars", BTC, "1m", "--since", lines[0][0], "--limit", "6", "--url", house.url)
    ).out
    assert [line[2:6] for line in lines] == [row.split()[1:5] for row in table.splitlines()[1:]]


async def test_tail_shows_trades_as_they_are_stored(house: House) -> None:
    async with (
        running("tail", BTC, "--ticks", "--url", house.url) as tail,
        house.passing_time(),
    ):
        lines = [(await tail.line()).split() for _ in range(14)]
    options = ("--since", lines[0][0], "--limit", "14", "--url", house.url)
    table = (await run("ticks", BTC, *options)).out
    rows = [row.split() for row in table.splitlines()[1:]]
    assert [[time, *rest] for time, _, *rest in lines] == [row[:4] for row in rows]
    code, _, err = await run("tail", BTC, "--ticks", "--timeframe", "1m", "--url", house.url)
    assert (code, err.splitlines()[-1]) == (2, "Error: --timeframe is for bars, not for --ticks.")


async def test_tail_alone_shows_the_last_bars_of_the_first_symbols(house: House) -> None:
    async with running("tail", "--url", house.url) as tail:
        seen = {(await tail.line()).split()[1] for _ in range(25)}
    assert seen == {"crypto/sim/BTC/USD", "crypto/sim/DOGE/BTC", "crypto/sim/ETH/USD"}


async def test_tail_mixes_markets_and_takes_up_a_lost_connection(house: House) -> None:
    instruments = ("crypto/sim/BTC/USD", "us_equity/sim/SPY")
    arguments = ("-t", "5m", "--since", "2024-03-05T14:30", "--url", house.url)
    seen: dict[str, list[str]] = {one: [] for one in instruments}

    async def until(count: int) -> None:
        async with house.passing_time():
            while min(map(len, seen.values())) < count:
                time, instrument, *_ = (await tail.line()).split()
                seen[instrument].append(time)

    async with running("tail", *instruments, *arguments) as tail:
        await until(3)
        await house.close()
        house.clock.advance(30 * M)
        await house.open()
        await until(14)
        tail.process.send_signal(signal.SIGINT)
        code, _, err = await tail.ended()
    assert code == 0
    assert err.splitlines() == [f"The daemon at {house.url} has gone away.", "connected again."]
    for times in seen.values():
        assert times == [iso(START + (30 + 5 * number) * M) for number in range(len(times))]


async def test_tail_ends_quietly_as_soon_as_nobody_reads_it(house: House) -> None:
    reader, writer = os.pipe()
    async with running("tail", BTC, "--url", house.url, out=writer) as tail:
        os.close(writer)
        assert await asyncio.get_running_loop().run_in_executor(None, os.read, reader, 1)
        os.close(reader)
        # The daemon's time stands still: there is nothing more to print, and it ends nevertheless.
        assert await tail.ended() == (0, "", "")


async def test_tail_redraws_the_forming_bars_in_a_terminal(house: House) -> None:
    controller, terminal = pty.openpty()
    shown = b""
    instruments = (BTC, "crypto/sim/ETH/USD")
    loop = asyncio.get_running_loop()
    try:
        async with (
            asyncio.timeout(LONG_S),
            running("tail", *instruments, "--url", house.url, out=terminal) as tail,
            house.passing_time(),
        ):
            while shown.count(b"\x1b[2F\x1b[J") < 8:
                shown += await loop.run_in_executor(None, os.read, controller, 65_536)
            tail.process.send_signal(signal.SIGINT)
            assert (await tail.ended()).code == 0
    finally:
        os.close(terminal)
        os.close(controller)
    text = shown.decode()
    heading, *_ = rendered(text)
    assert heading.split() == ["time", "instrument", "open", "high", "low", "close", "volume"]
    for redraw in re.finditer(r"\x1b\[\d+F", text):
        screen = rendered(text[: redraw.start()])
        for instrument in instruments:
            # Closed bars above and the forming one below: never is a bar there twice.
            times = [line.split()[0] for line in screen if instrument in line]
            assert times == sorted(set(times))
    assert len(times) >= 10


def rendered(text: str) -> list[str]:
    """What a terminal shows of lines, cursor movements up and erasures below."""
    lines = [""]
    for part in re.split(r"(\x1b\[\d*[A-Za-z]|\r?\n)", text):
        if part.endswith("\n"):
            lines.append("")
        elif match := re.fullmatch(r"\x1b\[(\d+)F", part):
            del lines[len(lines) - 1 - int(match[1]) :]
            lines.append("")
        elif not part.startswith("\x1b"):
            lines[-1] += part
    return lines


def test_decimals_grow_with_what_is_shown_and_never_shrink() -> None:
    form = BarFormat()
    assert form.rows([(0, 1.0, 2.0, 1.0, 1.5, 3.0)])[0][1:] == ["1.0", "2.0", "1.0", "1.5", "3"]
    assert form.rows([(0, 1.0, 2.0, 1.0, 1.25, None)])[0][1:] == ["1.00", "2.00", "1.00", "1.25", "-"]
    assert form.rows([(0, 1.0, 2e-06, 1.0, 1e22, 1.0)])[0][1:3] == ["1.000000", "0.000002"]


def test_csv_keeps_every_digit() -> None:
    bar = (START, 0.1 + 0.2, 1e22, 1e-07, None, 5.0)
    assert csv_row(bar) == f"{START},0.30000000000000004,1e+22,1e-07,,5.0"
    assert json.loads(f"[{csv_row(bar).replace(',,', ',null,')}]") == list(bar)


def test_a_table_is_aligned_on_either_side() -> None:
    assert table(["a", "long"], [["wide", "1"]]) == "a     long\nwide  1"
    assert table(["a", "long"], [["wide", "1"]], right=True) == "a     long\nwide     1"
