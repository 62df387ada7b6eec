"""How a recorded bar forms: the few trades that may have made it, always the same ones.

A bar does not tell the way of its price. The path taken here is open, then the nearer of high and low,
then the other, then close: the usual reading of a bar, and no price that was not recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from marketd.domain.bar import Bar, Value


class Formed(NamedTuple):
    """The bar as it stands from `t_ms` on."""

    t_ms: int
    bar: Bar


def formation(bar: Bar, end_ms: int) -> list[Formed]:
    """The states of `bar`, which ends at `end_ms`, while it forms; ascending, the first at its open.

    The trades lie at equal steps of its interval and of its volume, and the last completes both. A
    price that is None or NaN is no trade; a bar of such prices alone has no states.
    """
    t_ms, *_, volume = bar
    prices = [price for price in _path(bar) if price is not None and price == price]
    return [
        Formed(
            t_ms + (end_ms - t_ms) * index // len(prices),
            _so_far(t_ms, prices[: index + 1], _share(volume, index + 1, len(prices))),
        )
        for index in range(len(prices))
    ]


def formed_at(bar: Bar, end_ms: int, now_ms: int) -> Bar | None:
    """What is to be seen of `bar` at `now_ms`, None before its first trade."""
    if end_ms <= now_ms:
        return bar
    return next((state.bar for state in reversed(formation(bar, end_ms)) if state.t_ms <= now_ms), None)


def _path(bar: Bar) -> tuple[Value, ...]:
    _, open_, high, low, close, _ = bar
    if open_ is not None and high is not None and low is not None and open_ - low < high - open_:
        return open_, low, high, close
    return open_, high, low, close


def _share(volume: Value, trades: int, of: int) -> Value:
    return volume if volume is None or trades == of else volume * (trades / of)


def _so_far(t_ms: int, prices: Sequence[float], volume: Value) -> Bar:
    return t_ms, prices[0], max(prices), min(prices), prices[-1], volume
