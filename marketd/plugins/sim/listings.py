"""What the simulated exchange lists, and how whole numbers become the prices and sizes of a listing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from marketd.domain.bar import Bar, Tick
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import DAY_MS
from marketd.plugins.sim.candles import Candles, Trades

CRYPTO = "crypto"
US_EQUITY = "us_equity"


@dataclass(frozen=True, slots=True)
class Listing:
    """One symbol and its character.

    `since`: its first day. `digits`: the decimals of a price. `lot`: the smallest size, a power of two
    so that sizes add up exactly in any order. `price`: around which it wanders. `volatility`: standard
    deviation of a day's return; `gap`: of the return overnight. `day_volume`: lots. `busy_minutes`,
    `busy_seconds`: the mean share of a session's minutes, and of such a minute's seconds, with a trade.
    """

    symbol: str
    market: str
    name: str
    base: str
    quote: str
    since: date
    digits: int
    lot: float
    price: float
    volatility: float
    gap: float
    day_volume: int
    busy_minutes: float
    busy_seconds: float
    halts: bool = False

    @property
    def first_ms(self) -> int:
        """The start of its first day, epoch milliseconds."""
        return (self.since - date(1970, 1, 1)).days * DAY_MS

    @property
    def info(self) -> SymbolInfo:
        return SymbolInfo(self.symbol, self.market, self.name, self.base, self.quote, self.first_ms)

    def bars(self, candles: Candles) -> list[Bar]:
        # One division by a power of ten gives the double nearest to the decimal price.
        t, *prices, volume = candles.columns
        values = [*(price / 10**self.digits for price in prices), volume * self.lot]
        return list(zip(t.tolist(), *(column.tolist() for column in values), strict=True))

    def ticks(self, trades: Trades) -> list[Tick]:
        times: list[int] = trades.t.tolist()
        prices: list[float] = (trades.price / 10**self.digits).tolist()
        sizes: list[float] = (trades.size * self.lot).tolist()
        sides: list[str] = np.where(trades.bought, "buy", "sell").tolist()
        # No two trades of a symbol share a millisecond, so its time names a trade.
        return list(zip(times, prices, sizes, sides, map(str, times), strict=True))


def listings() -> Sequence[Listing]:
    """Everything that is listed."""
    return (
        Listing(
            "BTC/USD", CRYPTO, "Bitcoin (simulated)", "BTC", "USD", date(2010, 1, 1),
            digits=2, lot=1 / 256, price=42_000.0, volatility=0.030, gap=0.0,
            day_volume=12_000 * 256, busy_minutes=1.0, busy_seconds=0.75,
        ),
        Listing(
            "ETH/USD", CRYPTO, "Ether (simulated)", "ETH", "USD", date(2015, 8, 7),
            digits=2, lot=1 / 64, price=2_400.0, volatility=0.037, gap=0.0,
            day_volume=150_000 * 64, busy_minutes=0.999, busy_seconds=0.60,
        ),
        Listing(
            "SOL/USD", CRYPTO, "Solana (simulated)", "SOL", "USD", date(2020, 3, 16),
            digits=3, lot=1 / 16, price=95.0, volatility=0.045, gap=0.0,
            day_volume=900_000 * 16, busy_minutes=0.98, busy_seconds=0.35,
        ),
        Listing(
            "DOGE/BTC", CRYPTO, "Dogecoin in Bitcoin (simulated)", "DOGE", "BTC", date(2014, 1, 1),
            digits=10, lot=1.0, price=0.0000025, volatility=0.035, gap=0.0,
            day_volume=6_000_000, busy_minutes=0.35, busy_seconds=0.05,
        ),
        Listing(
            "SPY", US_EQUITY, "S&P 500 fund (simulated)", "SPY", "USD", date(2010, 1, 1),
            digits=2, lot=1.0, price=320.0, volatility=0.010, gap=0.003,
            day_volume=75_000_000, busy_minutes=1.0, busy_seconds=0.90,
        ),
        Listing(
            "AAPL", US_EQUITY, "Apple Inc. (simulated)", "AAPL", "USD", date(2010, 1, 1),
            digits=2, lot=1.0, price=140.0, volatility=0.017, gap=0.005,
            day_volume=55_000_000, busy_minutes=1.0, busy_seconds=0.75,
        ),
        Listing(
            "ACME", US_EQUITY, "Acme Corporation (simulated)", "ACME", "USD", date(2012, 5, 21),
            digits=2, lot=1.0, price=28.0, volatility=0.024, gap=0.008,
            day_volume=400_000, busy_minutes=0.80, busy_seconds=0.10, halts=True,
        ),
    )  # fmt: skip
