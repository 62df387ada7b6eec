"""The commands on the store: with a daemon that runs, and without."""

from __future__ import annotations

import asyncio
import gzip
import re
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner, Result
from house import START, House, M
from scripted import INSTRUMENT, MINUTE, bar
from servers.postgres import PostgresServer
from test_cli import run

from marketd.cli import main
from marketd.control.address import socket_beside
from marketd.control.client import connected
from marketd.control.server import ControlServer
from marketd.domain import packing
from marketd.domain.instrument import Series
from marketd.domain.timerange import MAX_MS
from marketd.storage.sqlite import SQLiteStorage
from marketd.storage.sqlite.profile import STATEMENTS

NAMES = ("--market", "crypto", "--provider", "sim", "--symbol", "BTC/USD", "--timeframe", "1m")
FAR_AWAY = packing.pack([(MAX_MS, 1.0, 1.0, 1.0, 1.0, 1.0)])
HEADING = "timestamp_ms,open,high,low,close,volume"


class Shell:
    """Commands on one database that no daemon has open."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.database = folder / "marketd.db"
        self.config = folder / "store.toml"
        url = url or f"sqlite:///{self.database}"
        self.config.write_text(f'[storage]\nurl = "{url}"\n', encoding="utf-8")

    def __call__(self, *arguments: object, code: int = 0) -> Result:
        words = [str(argument) for argument in arguments]
        result = CliRunner().invoke(main, [*words, "-c", str(self.config)])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    def file(self, *rows: str, name: str = "bars.csv") -> Path:
        path = self.folder / name
        path.write_text("\n".join([HEADING, *rows, ""]), encoding="utf-8")
        return path

    def take(self, *rows: str, code: int = 0, options: tuple[str, ...] = ()) -> Result:
        return self("import", self.file(*rows), *NAMES, *options, code=code)

    def bars(self) -> list[str]:
        """Every stored bar of the one series, as a line."""
        return self("export", "-").stdout.splitlines()[1:]

    def coverage(self) -> list[tuple[int, int, str]]:
        """In minutes after START."""
        with closing(sqlite3.connect(self.database)) as connection:
            rows = connection.execute("SELECT range_start, range_end, reason FROM coverage")
            return [((one - START) // M, (other - START) // M, why) for one, other, why in rows]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.open()
    yield house
    await house.close()


def minute(number: int, value: float = 1.0) -> str:
    return f"{START + number * M},{value},{value},{value},{value},{value}"


# Import


def test_a_file_stored_twice_changes_nothing_and_says_so(shell: Shell) -> None:
    assert shell.take(minute(0), minute(1)).stdout == "bars.csv: 2 bars: 2 new\n"
    assert shell.take(minute(0), minute(1)).stdout == "bars.csv: 2 bars, nothing new\n"
    third = shell.take(minute(0), minute(1, 2.0), minute(2))
    assert third.stdout == "bars.csv: 3 bars: 1 new, 1 changed, 1 as they were\n"
    assert shell.bars() == [minute(0), minute(1, 2.0), minute(2)]


def test_bars_prove_only_their_own_intervals(shell: Shell) -> None:
    shell.take(minute(0), minute(1), minute(5))
    assert shell.coverage() == [(0, 2, "data"), (5, 6, "data")]


def test_a_complete_file_proves_all_from_its_first_to_its_last_bar(shell: Shell) -> None:
    shell.take(minute(5), minute(1), minute(0), options=("--complete",))
    assert shell.coverage() == [(0, 6, "data")]


def test_a_file_with_a_bad_row_is_not_complete(shell: Shell) -> None:
    result = shell.take(minute(0), "x", minute(5), code=1, options=("--complete",))
    assert "not taken as complete" in result.stderr
    assert shell.coverage() == [(0, 1, "data"), (5, 6, "data")]


def test_bad_rows_are_told_with_file_and_line_so_many_and_the_others_counted(shell: Shell) -> None:
    result = shell.take(minute(0), *["x"] * 5_000, minute(1), code=1)
    assert result.stdout == "bars.csv: 2 bars: 2 new, and 5,000 rows refused\n"
    lines = result.stderr.splitlines()
    assert lines[0] == "bars.csv, line 3: it has fewer columns than the header."
    assert lines[19:] == [
        "bars.csv, line 22: it has fewer columns than the header.",
        "bars.csv: 4,980 more rows are no bars.",
    ]
    assert shell.bars() == [minute(0), minute(1)]


def test_a_damaged_file_is_told_and_the_next_one_taken(shell: Shell) -> None:
    damaged = shell.folder / "damaged.csv.gz"
    packed = gzip.compress("\n".join([HEADING, *map(minute, range(30_000))]).encode())
    damaged.write_bytes(packed[: len(packed) // 2])
    result = shell("import", damaged, shell.file(minute(40_000)), *NAMES, code=1)
    assert "damaged.csv.gz cannot be read" in result.stderr
    assert "What came before is stored." in result.stderr
    assert "bars.csv: 1 bars: 1 new" in result.stdout
    assert shell.bars()[0] == minute(0)
    assert shell.bars()[-1] == minute(40_000)


def test_a_bar_that_still_forms_is_not_stored(shell: Shell) -> None:
    future = "2099-06-01T00:00:00Z,1,1,1,1,1"
    result = shell.take(future, code=1)
    assert "line 2: its interval has not ended yet." in result.stderr
    assert "No such series" in shell("export", "-", code=2).stderr


def test_columns_units_zones_and_ends_are_told_by_options(shell: Shell) -> None:
    path = shell.folder / "ny.csv"
    path.write_text("Day,First,Top,Low,Last\n2024-03-05 09:01,1,1,1,1\n", encoding="utf-8")
    columns = "t=Day,open=First,high=Top,close=Last,volume="
    shell(
        "import", path, *NAMES,
        "--columns", columns, "--time-unit", "text", "--zone", "America/New_York", "--end-labelled",
    )  # fmt: skip
    assert shell.bars() == [f"{START},1.0,1.0,1.0,1.0,"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--columns", "opn=x"), "'opn=x' is not like open=Open"),
        (("--columns", "t="), "'t=' is not like"),
        (("--zone", "Mars/Olympus"), "'Mars/Olympus' is no time zone"),
        (("--timeframe", "1x"), "A timeframe is a count"),
        (("--time-unit", "h"), "'h' is not one of"),
    ],
)
def test_an_option_that_makes_no_sense_is_a_wrong_option(
    shell: Shell, options: tuple[str, ...], says: str
) -> None:
    assert says in shell.take(minute(0), code=2, options=options).stderr
    assert not shell.database.exists()


def test_a_provider_that_nobody_configured_is_told(shell: Shell) -> None:
    result = shell("import", shell.file(minute(0)), *NAMES[:3], "other", *NAMES[4:])
    assert "No provider other is configured" in result.stderr


async def test_a_running_daemon_takes_an_import_and_serves_it_at_once(
    house: House, tmp_path: Path
) -> None:
    shell = Shell(tmp_path)
    question = {
        "market": "crypto", "provider": "sim", "symbol": "BTC/USD", "timeframe": "1m",
        "since": START, "before": START + 2 * M,
    }  # fmt: skip
    async with aiohttp.ClientSession() as session:

        async def asked() -> list[list[float]]:
            async with session.get(f"{house.url}/api/v1/ohlcv", params=question) as response:
                return (await response.json())["bars"]  # type: ignore[no-any-return]

        assert len(await asked()) == 2
        path = shell.file(minute(0, 7.0), minute(1, 8.0))
        code, out, err = await run("import", str(path), *NAMES, "-c", str(shell.config))
        assert (code, out, err) == (0, "bars.csv: 2 bars: 2 changed\n", "")
        assert [bar[4] for bar in await asked()] == [7.0, 8.0]
    code, out, _ = await run("export", "-", "--since", str(START), "-c", str(shell.config))
    assert out.splitlines()[1:] == [minute(0, 7.0), minute(1, 8.0)]
    code, out, _ = await run("check", "-c", str(shell.config))
    assert (code, out.splitlines()[-1]) == (0, "ok")
    backup = tmp_path / "backup.db"
    assert (await run("backup", str(backup), "-c", str(shell.config))).code == 0
    code, _, err = await run("restore", str(backup), "-c", str(shell.config))
    assert code == 1
    assert "in use by another marketd" in err


# Export


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.parquet"])
def test_what_was_exported_is_imported_identical(shell: Shell, name: str) -> None:
    odd = [minute(0), f"{START + M},0.1,,-Infinity,NaN,1e-300", minute(7, 1 / 3)]
    shell.take(*odd)
    before = shell.bars()
    assert shell("export", shell.folder / name).stdout.endswith(f"{name}: 3 bars\n")
    shell.database.unlink()
    shell("import", shell.folder / name, *NAMES)
    assert shell.bars() == before


def test_more_bars_than_a_page_come_out_whole_and_clipped_to_a_span(shell: Shell) -> None:
    rows = [minute(number) for number in range(12_000)]
    shell.take(*rows)
    assert shell.bars() == rows
    span = ("--since", START + 3 * M, "--before", START + 6_000 * M)
    assert shell("export", "-", *span).stdout.splitlines()[1:] == rows[3:6_000]


def test_every_series_goes_into_a_folder_under_its_names(shell: Shell) -> None:
    shell.take(minute(0))
    shell("import", shell.file(minute(1)), *NAMES[:5], "../.x", *NAMES[6:])
    shell("export", shell.folder / "all", "--format", "csv")
    files = sorted(path.relative_to(shell.folder) for path in shell.folder.glob("all/**/*.csv"))
    assert files == [
        Path("all/crypto/sim/%2E.%2F.x_1m.csv"),
        Path("all/crypto/sim/BTC%2FUSD_1m.csv"),
    ]
    assert (shell.folder / files[1]).read_text(encoding="utf-8") == f"{HEADING}\n{minute(0)}\n"


def test_a_file_that_is_there_is_replaced_by_force_alone(shell: Shell) -> None:
    shell.take(minute(0))
    path = shell.folder / "out.csv"
    path.write_text("mine", encoding="utf-8")
    assert "--force" in shell("export", path, code=1).stderr
    assert path.read_text(encoding="utf-8") == "mine"
    shell("export", path, "--force")
    assert path.read_text(encoding="utf-8").splitlines()[1:] == [minute(0)]


def test_one_file_is_for_one_series(shell: Shell) -> None:
    shell.take(minute(0))
    shell("import", shell.file(minute(1)), *NAMES[:5], "ETH/USD", *NAMES[6:])
    refusal = shell("export", "out.csv", code=2).stderr
    assert "2 series are meant" in refusal
    assert "crypto/sim/ETH/USD@1m" in refusal
    assert "No such series" in shell("export", "out.csv", "--symbol", "X", code=2).stderr
    assert "No such series" in shell("export", "folder", "--symbol", "X", code=2).stderr


@pytest.mark.parametrize("command", [("export", "out.csv"), ("check",), ("backup", "b.db")])
def test_without_a_database_it_is_said_how_one_comes_to_be(
    shell: Shell, command: tuple[str, ...]
) -> None:
    assert "There is no database" in shell(*command, code=1).stderr
    assert not shell.database.exists()


# Profile


def test_no_statement_of_the_store_looks_at_a_whole_table(shell: Shell) -> None:
    shell.take(*map(minute, range(3_000)))
    heading, *rows = shell("profile-queries").stdout.splitlines()
    assert heading.split() == ["statement", "ms", "how"]
    assert len(rows) == len(STATEMENTS)
    (first,) = [row for row in rows if row.startswith("first blocks ")]
    assert re.search(r"^first blocks +\d+\.\d\d +SEARCH block USING PRIMARY KEY \(series=\?", first)


async def test_every_reading_statement_is_timed_and_the_plans_are_the_same_over_the_socket(
    tmp_path: Path,
) -> None:
    series = Series(INSTRUMENT, MINUTE)
    storage = SQLiteStorage(tmp_path / "bars.db")
    await storage.open()
    await storage.store(series, [bar(number) for number in range(3_000)], [], at_ms=0)
    await storage.store_ticks(INSTRUMENT, [(0, 1.0, 1.0, "", "")])
    server = ControlServer(storage, socket_beside(tmp_path / "bars.db"))
    await server.open()
    here = await storage.profile()
    async with connected(socket_beside(tmp_path / "bars.db")) as remote:
        there = await remote.profile()
    await server.close()
    await storage.close()
    assert [plan[:4] for plan in here] == [tuple(plan[:4]) for plan in there]
    assert {plan.statement for plan in here} == {" ".join(one.split()) for one in STATEMENTS.values()}
    assert not [plan for plan in here if plan.scans]
    # The two without an order are parts of others; _STEP_END and _ALL_TICKS belong to writing.
    untimed = {
        plan.name for plan in here if plan.took_ms is None and plan.statement.startswith("SELECT")
    }
    assert untimed == {"read rollup", "read ticks", "all ticks", "step end"}


# Check, backup, restore


def test_a_sound_database_is_said_to_be_so(shell: Shell) -> None:
    shell.take(minute(0), minute(1))
    lines = shell("check").stdout.splitlines()
    assert "1 series, 2 bars, 0 trades" in lines[0]
    assert lines[1] == "ok"


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE coverage SET range_end = range_start", "ranges of the coverage are empty"),
        (
            "INSERT INTO coverage SELECT series, range_start + 1, range_end, reason FROM coverage",
            "1 ranges of the coverage are empty, overlap or",
        ),
        (
            "UPDATE coverage SET reason = 'closed'",
            "has 2 bars where its coverage says that there are none",
        ),
        ("UPDATE series SET timeframe = '2m'", "has 1 bars off the grid of 2m"),
        ("UPDATE block SET start = start + 15360000", "has bars that are not where they belong"),
        (f"UPDATE block SET bars = X'{FAR_AWAY.hex()}'", "has bars outside the years"),  # noqa: S608
        ("UPDATE block SET series = 9", "The table block has rows of 1 series that nothing names."),
        (
            "INSERT INTO tick (instrument, t, place, price, size, side, id)"
            " VALUES (8, 0, 0, 1, 1, '', 'a'), (9, 0, 0, 1, 1, '', 'b')",
            "The table tick has rows of 2 instrument that nothing names.",
        ),
        ("UPDATE series SET timeframe = 'x'", "has no timeframe that is one"),
        ("PRAGMA user_version = 999", "newer marketd"),
    ],
)
def test_what_cannot_be_so_is_told_and_ends_with_1(shell: Shell, statement: str, says: str) -> None:
    shell.take(minute(0), minute(1))
    with closing(sqlite3.connect(shell.database, isolation_level=None)) as connection:
        connection.execute(statement)
    result = shell("check", code=1)
    assert says in result.stderr
    assert "marketd restore FILE" in result.stderr


def test_a_damaged_file_is_found_out(shell: Shell) -> None:
    shell.take(*map(minute, range(5_000)))
    content = bytearray(shell.database.read_bytes())
    content[20_000:60_000] = b"\xff" * 40_000
    shell.database.write_bytes(content)
    assert "damaged" in shell("check", code=1).stderr
    shell.database.write_bytes(b"no database at all, and longer than a header of one " * 100)
    assert "not a database" in shell("check", code=1).stderr


def test_a_backup_is_one_private_file_that_restores_what_was(shell: Shell) -> None:
    shell.take(minute(0))
    backup = shell.folder / "backup.db"
    shell("backup", backup)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert "--force" in shell("backup", backup, code=1).stderr
    shell.take(minute(1))
    after = shell.bars()
    told = shell("restore", backup).stdout
    assert shell.bars() == [minute(0)]
    aside = Path(told.splitlines()[0].rpartition(" ")[2])
    assert stat.S_IMODE(shell.database.stat().st_mode) == 0o600
    shell("restore", aside)
    assert shell.bars() == after


def test_what_a_killed_daemon_left_in_its_log_is_backed_up_and_set_aside_too(shell: Shell) -> None:
    shell.take(minute(0))
    backup = shell.folder / "before.db"
    shell("backup", backup)
    with closing(sqlite3.connect(shell.database, isolation_level=None)) as connection:
        block = packing.pack([(START, 1.0, 2.0, 1.0, 2.0, 1.0)])
        connection.execute("UPDATE block SET bars = ?", (block,))
        left = shell.folder / "left"
        left.mkdir()
        for ending in ("", "-wal"):
            shutil.copy(f"{shell.database}{ending}", left / f"marketd.db{ending}")
    for file in left.iterdir():
        shutil.copy(file, shell.folder / file.name)
    changed = [f"{START},1.0,2.0,1.0,2.0,1.0"]
    shell("backup", shell.folder / "after.db")
    told = shell("restore", backup).stdout
    assert shell.bars() == [minute(0)]
    shell("restore", told.splitlines()[0].rpartition(" ")[2])
    assert shell.bars() == changed
    shell("restore", shell.folder / "after.db")
    assert shell.bars() == changed


def test_what_is_no_sound_backup_is_not_restored(shell: Shell) -> None:
    shell.take(minute(0))
    for content in (b"", b"nothing of the kind " * 200):
        wrong = shell.folder / "wrong.db"
        wrong.write_bytes(content)
        assert "is no sound backup" in shell("restore", wrong, code=1).stderr
    assert shell.bars() == [minute(0)]


def test_a_database_may_be_restored_where_there_was_none(shell: Shell) -> None:
    shell.take(minute(0))
    backup = shell.folder / "backup.db"
    shell("backup", backup)
    shell.database.unlink()
    assert "is now" not in shell("restore", backup).stdout
    assert shell.bars() == [minute(0)]


def test_the_database_is_no_place_for_its_own_backup(shell: Shell) -> None:
    shell.take(minute(0))
    link = shell.folder / "link.db"
    link.symlink_to(shell.database)
    for name in (shell.database, link):
        assert "the database itself" in shell("backup", name, "--force", code=1).stderr
    assert shell.bars() == [minute(0)]


def test_a_backup_where_nothing_can_be_written_is_told(shell: Shell) -> None:
    shell.take(minute(0))
    refusal = shell("backup", shell.folder / "no" / "folder" / "b.db", code=1).stderr
    assert "cannot be made: No such file or directory." in refusal


# A database server


def test_bars_go_into_a_database_server_and_come_out_the_same(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, postgres_server.url())
    odd = [minute(0), f"{START + M},0.1,,-Infinity,NaN,1e-300", minute(7, 1 / 3)]
    assert shell.take(*odd).stdout == "bars.csv: 3 bars: 3 new\n"
    assert shell.take(*odd).stdout == "bars.csv: 3 bars, nothing new\n"
    assert shell.bars() == odd
    told, ok = shell("check").stdout.splitlines()
    assert re.search(r": PostgreSQL 1\d[.\d]*, no TimescaleDB, .*, 1 series, 3 bars, 0 trades$", told)
    assert "fsync is off" in told
    assert postgres_server.password not in told
    assert ok == "ok"
    assert not shell.database.exists()
    heading, *rows = shell("profile-queries").stdout.splitlines()
    assert heading.split() == ["statement", "ms", "how"]
    (first,) = [row for row in rows if re.match(r"bars first bars +\d", row)]
    assert re.search(r"\d\.\d\d +Aggregate \(1 rows, \d+ pages\); Limit .* on bar \(", first)


async def test_what_is_imported_into_a_database_server_a_running_daemon_serves(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = await postgres_server.create("imported")
    shell, house = Shell(tmp_path, url), House(tmp_path, url)
    question = {
        "market": "crypto", "provider": "sim", "symbol": "BTC/USD", "timeframe": "1m",
        "since": START, "before": START + 2 * M,
    }  # fmt: skip
    await house.open()
    try:
        async with aiohttp.ClientSession() as session:

            async def asked() -> list[float]:
                async with session.get(f"{house.url}/api/v1/ohlcv", params=question) as response:
                    return [bar[4] for bar in (await response.json())["bars"]]

            before = await asked()
            path = shell.file(minute(0, 7.0), minute(1, 8.0))
            assert (await run("import", str(path), *NAMES, "-c", str(shell.config))).code == 0
            async with asyncio.timeout(20):
                while (now := await asked()) == before:  # noqa: ASYNC110 - it hears of it when it does
                    await asyncio.sleep(0.01)
            assert now == [7.0, 8.0]
    finally:
        await house.close()


def test_a_database_server_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    shell = Shell(tmp_path, "postgresql://me:secret@127.0.0.1:1/bars")
    for refusal in (shell.take(minute(0), code=1).stderr, shell("export", "-", code=1).stderr):
        assert "Nothing answers at 127.0.0.1:1. Start PostgreSQL there" in refusal
        assert "secret" not in refusal


@pytest.mark.parametrize(
    ("command", "tool"),
    [
        (("backup", "copy"), "pg_dump"),
        (("restore", "bars.csv"), "pg_restore"),
    ],
)
def test_a_database_server_is_looked_after_with_its_own_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], tool: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = Shell(tmp_path, "postgresql://me:secret@127.0.0.1:1/bars")
    shell.file(minute(0))
    refusal = shell(*command, code=1).stderr
    assert tool in refusal
    assert refusal.count("\n") == 1
    assert "secret" not in refusal
    assert not (tmp_path / "copy").exists()
