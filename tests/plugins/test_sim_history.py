"""What is true of every bar and trade of the simulation, at every level."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.domain.bar import Bar, Tick, all_valid, bar_fault
from marketd.domain.resample import resample
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.domain.timerange import MAX_MS
from marketd.plugins.sim.calendar import around_the_clock, new_york
from marketd.plugins.sim.candles import Candles
from marketd.plugins.sim.history import DAY, MINUTE, SECOND, History
from marketd.plugins.sim.listings import CRYPTO, US_EQUITY, listings
from marketd.plugins.sim.noise import Noise, grow
from marketd.plugins.sim.subdivide import LOTS_A_BAR, Subdivision
from marketd.plugins.sim.trades import Tape

CALENDARS = {CRYPTO: around_the_clock(), US_EQUITY: new_york()}
LISTINGS = {listing.symbol: listing for listing in listings()}
SEEDS = (1, 2, -77)
MINUTE_MS = 60_000
EVERYTHING = 10**9
END_MS = int(datetime(2050, 1, 1, tzinfo=UTC).timestamp()) * 1000

symbols = st.sampled_from(sorted(LISTINGS))
instants = st.integers(LISTINGS["SOL/USD"].first_ms, END_MS)
timeframes = st.sampled_from((SECOND, MINUTE, DAY))


def make(symbol: str, seed: int = 1) -> History:
    listing = LISTINGS[symbol]
    return History(listing, CALENDARS[listing.market], seed)


@pytest.fixture(scope="module")
def histories() -> dict[tuple[str, int], History]:
    return {(symbol, seed): make(symbol, seed) for symbol in LISTINGS for seed in SEEDS}


def ms(text: str) -> int:
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * 1000


def as_bars(ticks: Sequence[Tick]) -> list[Bar]:
    return [(t, price, price, price, price, size) for t, price, size, _, _ in ticks]


@settings(max_examples=15)
@given(symbol=symbols, seed=st.sampled_from(SEEDS), t_ms=instants)
def test_every_level_is_exactly_the_fold_of_the_next(
    histories: dict[tuple[str, int], History], symbol: str, seed: int, t_ms: int
) -> None:
    history = histories[symbol, seed]
    start, end = DAY.floor(t_ms), DAY.end(t_ms)
    days, minutes, seconds = (
        history.bars(timeframe, start, end, EVERYTHING) for timeframe in (DAY, MINUTE, SECOND)
    )
    assert resample(minutes, DAY) == days
    assert resample(seconds, MINUTE) == minutes
    for timeframe, bars in ((DAY, days), (MINUTE, minutes), (SECOND, seconds)):
        assert all_valid(bars, timeframe)
        assert all(bar_fault(bar, timeframe) is None for bar in bars)
    for minute in minutes[:: len(minutes) // 6 + 1]:
        span = minute[0], minute[0] + 2 * MINUTE_MS
        ticks = history.ticks(*span, EVERYTHING)
        assert resample(as_bars(ticks), SECOND) == history.bars(SECOND, *span, EVERYTHING)
        assert all(one[0] < other[0] for one, other in pairwise(ticks))
        assert all(price > 0 and size > 0 for _, price, size, _, _ in ticks)
        assert {side for *_, side, _ in ticks} <= {"buy", "sell"}


@settings(max_examples=80)
@given(
    symbol=symbols,
    timeframe=timeframes,
    t_ms=instants,
    since=st.integers(0, 3000),
    length=st.integers(-5, 3000),
    limit=st.integers(1, 2000),
)
def test_a_part_of_a_range_is_a_slice_of_the_whole(
    histories: dict[tuple[str, int], History],
    symbol: str,
    timeframe: Timeframe,
    t_ms: int,
    since: int,
    length: int,
    limit: int,
) -> None:
    history = histories[symbol, 1]
    scale = timeframe.nominal_ms
    whole = history.bars(timeframe, t_ms, t_ms + 6000 * scale, EVERYTHING)
    start, end = t_ms + since * scale + 7, t_ms + (since + length) * scale
    expected = [bar for bar in whole if start <= bar[0] < end][:limit]
    assert history.bars(timeframe, start, end, limit) == expected


@settings(max_examples=30)
@given(symbol=symbols, timeframe=timeframes, t_ms=instants)
def test_two_instances_agree_and_another_seed_is_another_history(
    histories: dict[tuple[str, int], History], symbol: str, timeframe: Timeframe, t_ms: int
) -> None:
    span = t_ms, t_ms + max(5 * DAY_MS, 10 * timeframe.nominal_ms), 50
    bars = histories[symbol, 1].bars(timeframe, *span)
    assert bars
    assert make(symbol).bars(timeframe, *span) == bars
    assert histories[symbol, 2].bars(timeframe, *span) != bars


def check_forming(history: History, timeframe: Timeframe, now: int) -> None:
    start = timeframe.floor(now)
    ticks = history.ticks(start, now + 1, EVERYTHING)
    expected = resample(as_bars(ticks), timeframe)
    assert history.bars_at(now, timeframe, start, MAX_MS, 10) == expected
    forming = history.forming(timeframe, now)
    assert ([] if forming is None else [forming]) == expected


@settings(max_examples=150)
@given(
    symbol=symbols, timeframe=st.sampled_from((SECOND, MINUTE)), t_ms=instants, at_trade=st.booleans()
)
def test_the_forming_bar_is_the_fold_of_the_trades_up_to_now(
    histories: dict[tuple[str, int], History],
    symbol: str,
    timeframe: Timeframe,
    t_ms: int,
    at_trade: bool,
) -> None:
    history = histories[symbol, 1]
    check_forming(history, timeframe, (at_trade and history.next_trade_ms(t_ms)) or t_ms)


@settings(max_examples=6)
@given(symbol=symbols, t_ms=instants)
def test_the_forming_day_is_the_fold_of_the_trades_up_to_now(
    histories: dict[tuple[str, int], History], symbol: str, t_ms: int
) -> None:
    check_forming(histories[symbol, 1], DAY, t_ms)


@settings(max_examples=60)
@given(symbol=symbols, timeframe=timeframes, now=instants)
def test_at_any_time_the_bars_are_the_closed_ones_and_at_most_one_forming(
    histories: dict[tuple[str, int], History], symbol: str, timeframe: Timeframe, now: int
) -> None:
    history = histories[symbol, 1]
    since, current = now - 300 * timeframe.nominal_ms, timeframe.floor(now)
    bars = history.bars_at(now, timeframe, since, MAX_MS, EVERYTHING)
    closed = [bar for bar in bars if bar[0] < current]
    assert closed == history.bars(timeframe, since, current, EVERYTHING)
    assert bars[len(closed) :] in ([], [history.forming(timeframe, now)])
    assert history.bars_at(now, timeframe, since, current, EVERYTHING) == closed
    assert history.bars_at(now, timeframe, current + 1, MAX_MS, EVERYTHING) == []
    assert history.bars_at(now, timeframe, since, MAX_MS, 3) == bars[:3]


@settings(max_examples=60)
@given(symbol=symbols, t_ms=instants)
def test_the_next_trade_is_the_first_of_the_trades_to_come(
    histories: dict[tuple[str, int], History], symbol: str, t_ms: int
) -> None:
    history = histories[symbol, 1]
    next_ms = history.next_trade_ms(t_ms)
    assert next_ms is not None
    assert next_ms >= t_ms
    assert [tick[0] for tick in history.ticks(t_ms, MAX_MS, 1)] == [next_ms]
    assert history.bars(SECOND, SECOND.ceil(t_ms), SECOND.floor(next_ms), 1) == []
    # It may belong to a second that had begun, where trades before it are none of its business.
    assert history.next_trade_ms(next_ms) == next_ms


@pytest.mark.parametrize("symbol", sorted(LISTINGS))
def test_nothing_is_before_the_first_day_of_a_listing(symbol: str) -> None:
    history, first_ms = make(symbol), LISTINGS[symbol].first_ms
    for timeframe in (SECOND, MINUTE, DAY):
        assert history.bars(timeframe, 0, first_ms, EVERYTHING) == []
        assert first_ms <= history.bars(timeframe, 0, MAX_MS, 1)[0][0] < first_ms + 5 * DAY_MS
        assert history.forming(timeframe, first_ms - 1) is None
    assert history.ticks(0, first_ms, EVERYTHING) == []
    assert (history.next_trade_ms(0) or 0) >= first_ms


def test_after_the_last_session_there_is_no_trade_any_more() -> None:
    history = make("BTC/USD")
    last = history.ticks(MAX_MS - MINUTE_MS, MAX_MS, EVERYTHING)
    assert last
    assert history.next_trade_ms(last[-1][0] + 1) is None
    assert history.ticks(MAX_MS, MAX_MS + DAY_MS, 5) == []


def test_equities_trade_in_the_session_alone() -> None:
    history = make("SPY")

    def traded(day: str) -> tuple[str, str] | None:
        minutes = history.bars(MINUTE, ms(day), ms(day) + DAY_MS, EVERYTHING)
        assert bool(minutes) == bool(history.bars(DAY, ms(day), ms(day) + DAY_MS, EVERYTHING))
        if not minutes:
            return None
        first, last = (datetime.fromtimestamp(bar[0] / 1000, UTC) for bar in (minutes[0], minutes[-1]))
        return f"{first:%H:%M}", f"{last:%H:%M}"

    assert traded("2024-03-08") == ("14:30", "20:59")  # winter
    assert traded("2024-03-09") is None  # Saturday
    assert traded("2024-03-10") is None  # Sunday
    assert traded("2024-03-11") == ("13:30", "19:59")  # summer
    assert traded("2024-03-29") is None  # Good Friday
    assert traded("2024-11-28") is None  # Thanksgiving
    assert traded("2024-11-29") == ("14:30", "17:59")  # the early close after it
    assert traded("2024-12-24") == ("14:30", "17:59")


def test_crypto_trades_every_day_of_the_week() -> None:
    days = make("BTC/USD").bars(DAY, ms("2024-03-01"), ms("2024-03-15"), EVERYTHING)
    assert [bar[0] for bar in days] == [ms("2024-03-01") + n * DAY_MS for n in range(14)]


def test_a_thinly_traded_symbol_has_quiet_minutes_and_a_busy_one_has_none() -> None:
    span = ms("2024-03-04"), ms("2024-03-09"), EVERYTHING
    assert len(make("BTC/USD").bars(MINUTE, *span)) == 5 * 1440
    assert len(make("SPY").bars(MINUTE, *span)) == 5 * 390
    assert 0.1 < len(make("DOGE/BTC").bars(MINUTE, *span)) / (5 * 1440) < 0.6
    assert 0.6 < len(make("ACME").bars(MINUTE, *span)) / (5 * 390) < 0.95


def test_acme_is_halted_for_some_25_minutes_on_some_days_and_others_never() -> None:
    def pauses(symbol: str) -> list[int]:
        """The longest pause of each session of a year, minutes."""
        bars = make(symbol).bars(MINUTE, ms("2024-01-01"), ms("2025-01-01"), EVERYTHING)
        longest: dict[int, int] = {}
        for one, other in pairwise(bars):
            day = one[0] // DAY_MS
            if other[0] // DAY_MS == day:
                longest[day] = max(longest.get(day, 0), (other[0] - one[0]) // MINUTE_MS - 1)
        return list(longest.values())

    acme = pauses("ACME")
    halted = [pause for pause in acme if pause >= 20]
    assert 10 < len(halted) < len(acme) / 4
    assert max(halted) < 45
    assert max(pauses("AAPL")) < 20


@pytest.mark.parametrize("symbol", sorted(LISTINGS))
def test_the_history_looks_like_that_of_a_market(symbol: str) -> None:
    listing, history = LISTINGS[symbol], make(symbol)
    days = np.array(history.bars(DAY, ms("2014-01-01"), ms("2026-01-01"), EVERYTHING))
    returns = np.diff(np.log(days[:, 4]))
    assert 0.8 < returns.std() / listing.volatility < 1.2
    assert abs(np.corrcoef(returns[1:], returns[:-1])[0, 1]) < 0.1
    minutes = np.array(history.bars(MINUTE, ms("2024-03-04"), ms("2024-03-09"), EVERYTHING))
    assert (minutes[1:, 1] == minutes[:-1, 4]).mean() > 0.6
    assert (minutes[:, 2] > np.maximum(minutes[:, 1], minutes[:, 4])).mean() > 0.3
    # Every value is a decimal of the listing's digits, and no double of its own invention.
    assert all(round(price, listing.digits) == price for price in minutes[:, 1:5].ravel().tolist())
    assert (minutes[:, 5] % listing.lot == 0).all()


def test_the_history_of_a_seed_is_the_same_on_every_machine_and_in_every_version() -> None:
    found = {
        symbol: make(symbol).bars(SECOND, ms("2024-03-08 14:40"), MAX_MS, 1)[0]
        for symbol in ("BTC/USD", "DOGE/BTC", "SPY")
    }
    assert found == {
        "BTC/USD": (1709908800000, 60382.24, 60384.02, 60379.05, 60379.56, 0.5546875),
        "DOGE/BTC": (1709908803000, 6.2615e-06, 6.2618e-06, 6.2589e-06, 6.2591e-06, 2238.0),
        "SPY": (1709908800000, 401.67, 401.76, 401.66, 401.74, 26156.0),
    }


prices = st.integers(1, 40) | st.integers(1, 10**7)


@st.composite
def parents(draw: st.DrawFn, most_lots: int) -> Candles:
    rows = draw(
        st.lists(
            st.tuples(prices, prices, prices, prices, st.integers(LOTS_A_BAR, most_lots)),
            min_size=1,
            max_size=8,
        )
    )
    places = draw(st.integers(0, 10**7)) + np.arange(len(rows))
    four, volume = np.array(rows)[:, :4], np.array(rows)[:, 4]
    return Candles(places, four[:, 0], four.max(axis=1), four.min(axis=1), four[:, 1], volume)


def folds(pieces: Candles, length: int, whole: Candles) -> bool:
    """True if the pieces of every interval of `length` fold into `whole`, interval by interval."""
    for index, t in enumerate(whole.t.tolist()):
        (bar,) = zip(*(column.tolist() for column in whole.rows(index, index + 1).columns), strict=True)
        mine = pieces.between(t, t + length).folded(t)
        if [bar] != list(zip(*(column.tolist() for column in mine.columns), strict=True)):
            return False
    return True


@given(whole=parents(5000) | parents(1 << 29), count=st.integers(-3, 90), profile=st.integers(0, 3))
def test_any_bar_at_all_is_the_fold_of_its_children(whole: Candles, count: int, profile: int) -> None:
    whole = Candles(whole.t * MINUTE_MS, *whole.columns[1:])
    weights = np.arange(60) ** profile + 1
    cut = Subdivision("name", slot_ms=1000, profile=np.minimum(weights, 60))
    children = cut.children(whole, whole.t, np.full(len(whole), count))
    assert folds(children, MINUTE_MS, whole)
    assert (children.volume >= LOTS_A_BAR).all()
    assert (np.minimum(children.open, children.close) >= children.low).all()
    assert (np.maximum(children.open, children.close) <= children.high).all()


@given(whole=parents(12) | parents(1 << 29))
def test_any_second_at_all_is_the_fold_of_its_trades(whole: Candles) -> None:
    whole = Candles(whole.t * 1000, *whole.columns[1:])
    trades = Tape("name").trades(whole)
    assert folds(trades.as_candles(), 1000, whole)
    assert (trades.size >= 1).all()
    assert (np.diff(trades.t) > 0).all()


def test_noise_at_a_place_does_not_depend_on_what_else_is_asked_for() -> None:
    places = np.arange(-50, 5000)
    noise = Noise("a")
    for look_up in (noise.bits, noise.share, noise.bell, lambda at: noise.wander(at, 12)):
        whole = look_up(places)
        assert (look_up(places[::-7]) == whole[::-7]).all()
        assert (look_up(places[1000:1001]) == whole[1000]).all()
    assert (Noise("b").bits(places) != noise.bits(places)).all()


def test_growth_is_close_to_the_exponential() -> None:
    x = np.linspace(-2, 2, 401)
    assert np.abs(grow(x) / np.exp(x) - 1).max() < 0.003
