"""The arguments that several commands take."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from marketd.domain.instrument import Instrument
    from marketd.domain.timeframe import Timeframe

# As in marketd.client, which takes longer to import than a help text may.
DEFAULT_URL = "http://127.0.0.1:8710"


class InstrumentType(click.ParamType["Instrument"]):
    """MARKET/PROVIDER/SYMBOL; the symbol may hold slashes of its own."""

    name = "MARKET/PROVIDER/SYMBOL"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Instrument:
        from marketd.domain.instrument import Instrument

        market, _, rest = value.partition("/")
        provider, _, symbol = rest.partition("/")
        if not (market and provider and symbol):
            self.fail(f"{value!r} is not like crypto/sim/BTC/USD: MARKET/PROVIDER/SYMBOL.", param, ctx)
        return Instrument(market, provider, symbol)


class TimeType(click.ParamType[int]):
    """Epoch milliseconds, or an ISO 8601 date or time, UTC unless it says otherwise."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from marketd.domain.instant import epoch_ms

        try:
            if value.isdigit():
                return epoch_ms(value)
            time = datetime.fromisoformat(value)
            return epoch_ms(time if time.tzinfo else time.replace(tzinfo=UTC))
        except ValueError:
            self.fail(
                f"{value!r} is no time from 1970 up to 2100. Write 2024-03-05, 2024-03-05T14:30 (UTC), "
                "2024-03-05T09:30-05:00 or epoch milliseconds.",
                param,
                ctx,
            )


class TimeframeType(click.ParamType["Timeframe"]):
    """A count and one of s, m, h, d, w, M and y."""

    name = "TIMEFRAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Timeframe:
        from marketd.domain.errors import InvalidInput
        from marketd.domain.timeframe import Timeframe

        try:
            return Timeframe.parse(value)
        except InvalidInput as error:
            self.fail(error.message, param, ctx)


url_option = click.option(
    "--url", default=DEFAULT_URL, show_default=True, help="Where the daemon answers."
)

config_option = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="A TOML file; without one every setting has its default.",
)
