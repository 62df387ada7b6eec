"""What is said about a configuration that cannot be used, and what never is."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.config import load_config
from marketd.domain.errors import ConfigError

SECRET = "hunter2"  # noqa: S105


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "marketd.toml"


def problems(content: str, path: Path, environ: Mapping[str, str] | None = None) -> list[str]:
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {})
    return caught.value.message.splitlines()


DURATION = 'with its unit, such as "30s" (units: ms, s, m, h, d, w, y).'
SIZE = 'with its unit, such as "64KB" (units: B, KB, MB, GB).'

KEPT = '[[backfill]]\nprovider = "sim"\nmarket = "crypto"\nsymbols = ["A"]\ntimeframe = "1m"\n'


class TestProblems:
    @pytest.mark.parametrize(
        ("content", "line"),
        [
            ("[server]\nprot = 1", "server.prot: unknown; did you mean server.port?"),
            ("[server]\nheartbeat = 1", "server.heartbeat: unknown; did you mean stream.heartbeat?"),
            ("[server]\ntimeout = 1", "server.timeout: unknown; did you mean server.request_timeout?"),
            (
                "[server]\nzzz = 1",
                "server.zzz: unknown, wanted one of host, port, request_timeout, max_body.",
            ),
            ('[server]\n"a\\nb" = 1', "server.'a\\nb': unknown"),
            ("port = 1", "port: unknown; did you mean server.port?"),
            ("[sever]\nport = 1", "sever: unknown; did you mean server?"),
            ("[provider.sim]", "provider: unknown; did you mean providers?"),
            (
                "[frob]",
                "frob: unknown, wanted one of server, storage, redis, cache, ",
            ),
            ("server = 1", "server: saw no table, wanted [server]."),
            ("[[server]]", "server: saw no table, wanted [server]."),
            ("providers = 1", "providers: saw no table, wanted [providers]."),
            (
                '[server]\nport = "http"',
                "server.port: saw 'http', wanted a whole number from 0 to 65535.",
            ),
            ("[server]\nport = 65536", "server.port: saw 65536, wanted"),
            ("[server]\nport = -1", "server.port: saw -1, wanted"),
            (
                "[upstream]\nretries = 11",
                "upstream.retries: saw 11, wanted a whole number from 0 to 10.",
            ),
            ("[stream]\nmax_symbols = 0", "stream.max_symbols: saw 0, wanted a whole number from 1 to"),
            ('[server]\nhost = "a..b"', "server.host: saw 'a..b', wanted a host name or an IP address."),
            ('[server]\nhost = "a b"', "server.host: saw 'a b', wanted"),
            (
                "[server]\nrequest_timeout = 30",
                "server.request_timeout: saw 30, wanted a duration from 1ms to 100y, " + DURATION,
            ),
            ('[upstream]\ntimeout = "30"', "upstream.timeout: saw '30', wanted a duration"),
            ('[upstream]\ntimeout = "0s"', "upstream.timeout: saw '0s', wanted a duration from 1ms"),
            ('[upstream]\ntimeout = "101y"', "upstream.timeout: saw '101y', wanted a duration"),
            ('[history]\ndepth = "3M"', "history.depth: saw '3M', wanted a duration"),
            (
                "[server]\nmax_body = 64",
                "server.max_body: saw 64, wanted a size from 1B to 1GB, " + SIZE,
            ),
            ('[server]\nmax_body = "64kb"', "server.max_body: saw '64kb', wanted a size"),
            ('[server]\nmax_body = "2GB"', "server.max_body: saw '2GB', wanted a size"),
            (
                '[log]\nlevel = "loud"',
                'log.level: saw \'loud\', wanted one of "debug", "info", "warning", "error".',
            ),
            (f'[log]\nlevel = "{"x" * 999}"', f"log.level: saw '{'x' * 60}…', wanted"),
            (
                "[providers.x]",
                'providers.x.plugin: saw none, wanted the name of a plugin, such as "sim".',
            ),
            ('[providers.x]\nplugin = ""', "providers.x.plugin: saw '', wanted"),
            ("[providers.x]\nplugin = 1", "providers.x.plugin: saw 1, wanted"),
            ("[providers]\nx = 1", "providers.x: saw no table, wanted [providers.x]."),
            (
                '[providers.x]\nplugin = "x"\ncredentials = 1',
                "providers.x.credentials: saw no table, wanted [providers.x.credentials].",
            ),
            ("[backfill]", "backfill: saw a table, wanted [[backfill]], as often as needed."),
            (
                KEPT.replace('provider = "sim"\n', ""),
                "[[backfill]] 1, provider: saw none, wanted the name of a provider.",
            ),
            (KEPT + "symbol = 1", "[[backfill]] 1, symbol: unknown; did you mean symbols?"),
            (KEPT.replace('["A"]', "[]"), "[[backfill]] 1, symbols: saw an array, wanted a list of"),
            (
                KEPT.replace('["A"]', '["A", 1]'),
                "[[backfill]] 1, symbols: saw an array, wanted a list of",
            ),
            (
                KEPT.replace("1m", "1x"),
                "[[backfill]] 1, timeframe: saw '1x', wanted a timeframe, such as",
            ),
            (KEPT + 'since = "soon"', "[[backfill]] 1, since: saw 'soon', wanted a time, such as"),
            (KEPT + 'every = "1ms"', "[[backfill]] 1, every: saw '1ms', wanted a duration from 1s"),
            (KEPT + "params = {a = 1}", "[[backfill]] 1, params: saw a table, wanted a table of texts."),
            (
                KEPT + KEPT,
                "[[backfill]] 2, symbols: saw 'A', but A is kept by [[backfill]] 1 already.",
            ),
            (
                KEPT.replace('["A"]', str([f"S{number}" for number in range(501)])),
                "backfill: saw 501 series, wanted at most 500.",
            ),
        ],
    )
    def test_a_problem_of_a_file_says_where_and_what_was_seen_and_wanted(
        self, content: str, line: str, path: Path
    ) -> None:
        (found,) = problems(content, path)
        assert found.startswith(line)

    @pytest.mark.parametrize(
        ("name", "text", "line"),
        [
            (
                "SERVER__PROT",
                "1",
                "server.prot (MARKETD_SERVER__PROT): unknown; did you mean server.port?",
            ),
            ("SEVER__PORT", "1", "sever.port (MARKETD_SEVER__PORT): unknown; did you mean server.port?"),
            ("FROB__X", "1", "frob.x (MARKETD_FROB__X): unknown, wanted one of server, "),
            ("SERVER__", "1", "server.'' (MARKETD_SERVER__): unknown, wanted one of host, "),
            (
                "SERVER__PORT",
                "http",
                "server.port (MARKETD_SERVER__PORT): saw 'http', wanted a whole number from 0 to 65535.",
            ),
            ("SERVER__PORT", "", "server.port (MARKETD_SERVER__PORT): saw '', wanted"),
            ("SERVER__PORT", "true", "server.port (MARKETD_SERVER__PORT): saw 'true', wanted"),
            (
                "UPSTREAM__TIMEOUT",
                "30",
                "upstream.timeout (MARKETD_UPSTREAM__TIMEOUT): saw '30', wanted",
            ),
            (
                "PROVIDER__SIM__SEED",
                "1",
                "provider.sim__seed (MARKETD_PROVIDER__SIM__SEED): unknown; did",
            ),
            (
                "PROVIDERS__SMI__SEED",
                "1",
                "MARKETD_PROVIDERS__SMI__SEED: no such provider; did you mean sim?",
            ),
            (
                "PROVIDERS__ZZZ__SEED",
                "1",
                "MARKETD_PROVIDERS__ZZZ__SEED: no such provider, wanted one of sim.",
            ),
            (
                "PROVIDERS__SIM",
                "1",
                "MARKETD_PROVIDERS__SIM: unknown, wanted MARKETD_PROVIDERS__<NAME>__<KEY>.",
            ),
            ("PROVIDERS__SIM__", "1", "MARKETD_PROVIDERS__SIM__: unknown, wanted"),
            ("PROVIDERS____SEED", "1", "MARKETD_PROVIDERS____SEED: unknown, wanted"),
            ("PROVIDERS__SIM__SEED__X", "1", "MARKETD_PROVIDERS__SIM__SEED__X: seed is no table"),
            ("PROVIDERS__SIM__PLUGIN", "", "providers.sim.plugin: saw '', wanted the name of a plugin"),
        ],
    )
    def test_a_problem_of_a_variable_names_the_variable(
        self, name: str, text: str, line: str, path: Path
    ) -> None:
        (found,) = problems("", path, {f"MARKETD_{name}": text})
        assert found.startswith(line)

    def test_all_problems_are_reported_together_one_a_line(self, path: Path) -> None:
        content = '[server]\nport = "x"\nprot = 1\n[log]\nlevel = 1\n[frob]\n[providers.x]\n'
        environ = {"MARKETD_SERVER__MAX_BODY": "1", "MARKETD_NO__SUCH": "1"}
        lines = problems(content, path, environ)
        assert [line.partition(":")[0] for line in lines] == [
            "server.port",
            "server.prot",
            "log.level",
            "frob",
            "no.such (MARKETD_NO__SUCH)",
            "server.max_body (MARKETD_SERVER__MAX_BODY)",
            "providers.x.plugin",
        ]

    def test_a_wrong_value_in_the_file_is_a_problem_even_where_a_variable_wins(self, path: Path) -> None:
        assert len(problems("[server]\nport = -1", path, {"MARKETD_SERVER__PORT": "1"})) == 1

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            (b'[server]\nhost = "x\n', 2),
            (b"[server]\n\nport = \n", 3),
            (b"[server]\nport = 1\nport = 2\n", 3),
            (b"[server]\nport = [1,\n", 3),
            (b'[server]\nhost = "\xff"\n', 2),
        ],
    )
    def test_what_is_not_toml_is_reported_with_its_line(
        self, content: bytes, line: int, tmp_path: Path
    ) -> None:
        path = tmp_path / "broken.toml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"broken\.toml: not TOML: .+ \(at line {line}[,)]"):
            load_config(path, {})

    def test_a_missing_file_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
            load_config(tmp_path / "none.toml", {})

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
            load_config(tmp_path, {})


class TestSecrets:
    @pytest.mark.parametrize(
        "content",
        [
            f'[providers.x]\ncredentials.key = "{SECRET}"',
            f'[providers.x]\ncredentials = "{SECRET}"',
            f'[providers.x]\ncredentials = ["{SECRET}"]',
            f'[providers.x]\nurl = "https://me:{SECRET}@example.org"',
            f'[providers.x]\nplugin = ["{SECRET}"]',
            f'[providers]\nx = "{SECRET}"',
            f'providers = "{SECRET}"',
            f'[credentials]\nkey = "{SECRET}"',
            f"[providers.x.credentials]\nkey = {SECRET}",
            f'[providers.x.credentials]\nkey = "{SECRET}',
            f'[providers.x.credentials]\nkey = "a"\nkey = "{SECRET}"',
            f'[storage]\nurl = "postgres://me:{SECRET}@db/bars"',
            f'[storage]\nurl = "postgresql://me:{SECRET}/@@db/bars"',
            f'[storage]\nurl = "postgresql://db/bars?password={SECRET}"',
            f'[storage]\nurl = "postgresql:/me:{SECRET}@db/bars"',
            f'[storage]\nurl = "me:{SECRET}@db"',
            f'[storage]\nurl = "host=db password={SECRET}"',
            f'[storage]\nurl = {{password = "{SECRET}"}}',
            f'[redis]\nurl = "redis://:{SECRET}@cache:port"',
            f'[redis]\nurl = ":{SECRET}@cache"',
            f'[server]\nhost = "https://me:{SECRET}@example.org"',
            f'[server]\nprot = "{SECRET}"',
        ],
    )
    def test_no_problem_of_a_file_tells_a_secret(self, content: str, path: Path) -> None:
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            load_config(path, {})
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize(
        "name",
        [
            "PROVIDERS__X__CREDENTIALS__KEY",
            "PROVIDERS__SIM__SEED__KEY",
            "PROVIDERS__SIM__CREDENTIALS",
            "PROVIDERS__SIM",
            "PROVIDERS__SIM__",
            "PROVIDER__SIM__CREDENTIALS__KEY",
            "CREDENTIALS__KEY",
            "SERVER__PROT",
        ],
    )
    def test_no_problem_of_a_variable_tells_a_secret(self, name: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load_config(None, {f"MARKETD_{name}": SECRET})
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    def test_no_repr_tells_a_secret(self, path: Path) -> None:
        path.write_text(
            f'[providers.x]\nplugin = "x"\nurl = "redis://:{SECRET}@db"\ncredentials.key = "{SECRET}"\n'
        )
        config = load_config(path, {})
        assert config.providers["x"].credentials == {"key": SECRET}
        assert SECRET not in f"{config!r} {config} {config.providers['x']!r}"


any_toml = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2),
)
some_names = st.sampled_from(
    [
        "server",
        "port",
        "providers",
        "sim",
        "plugin",
        "credentials",
        "log",
        "level",
        "url",
        "a-b",
        "_",
        "",
    ]
)


class TestAnything:
    @given(
        st.dictionaries(st.lists(some_names | st.text(max_size=3), max_size=5).map("__".join), st.text())
    )
    def test_any_environment_is_a_configuration_or_a_config_error(self, texts: dict[str, str]) -> None:
        environ = {f"MARKETD_{name}".upper(): text for name, text in texts.items()}
        try:
            config = load_config(None, environ)
        except ConfigError as error:
            assert error.message.splitlines() == error.message.split("\n")  # noqa: PT017
        else:
            assert config.providers

    @given(st.dictionaries(some_names, st.dictionaries(some_names, any_toml, max_size=4), max_size=4))
    def test_any_file_is_a_configuration_or_a_config_error(
        self, tmp_path_factory: pytest.TempPathFactory, tables: dict[str, dict[str, Any]]
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any.toml"
        # JSON's text and numbers are TOML's, but for the code of DEL.
        lines = [
            f"[{json.dumps(name)}]\n"
            + "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in table.items())
            for name, table in tables.items()
        ]
        path.write_text("".join(lines).replace("\x7f", ""))
        try:
            config = load_config(path, {})
        except ConfigError as error:
            assert error.message  # noqa: PT017
        else:
            assert config.providers
