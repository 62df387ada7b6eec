"""The checks of market hours: ranges, agreement with the bars, and the same answer for any range."""

from __future__ import annotations

from marketd.domain.timerange import TimeRange, merge
from marketd.plugins.base import MarketHours, MarketPlugin
from marketd.plugins.testing.base import KitBase

_WEEK_MS = 7 * 86_400_000


class HoursChecks(KitBase):
    """What a provider with MarketHours is held to, in the known range and the week before it."""

    def test_hours_are_ranges_that_ascend_within_what_was_asked(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            last_ms = begin_ms = self.since_ms - _WEEK_MS
            for start_ms, end_ms in self._closed(plugin, begin_ms, self.before_ms):
                assert start_ms < end_ms, f"[{start_ms}, {end_ms}) is no range"
                assert start_ms >= last_ms, f"[{start_ms}, {end_ms}) does not come after {last_ms}"
                last_ms = end_ms
            assert last_ms <= self.before_ms, f"it was asked up to {self.before_ms}, not {last_ms}"
            assert not self._closed(plugin, begin_ms, begin_ms), "an empty range holds nothing"

        self.run(check)

    def test_hours_are_open_where_there_are_bars(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            closed = merge(self._closed(plugin, self.since_ms, self.base.ceil(self.before_ms)))
            for bar in await self.fetch(plugin, self.since_ms, self.before_ms):
                whole = TimeRange(bar[0], self.base.end(bar[0]))
                shut = any(one.clip(whole) == whole for one in closed)
                assert not shut, f"the market was closed, it says, during the bar {bar!r}"

        self.run(check)

    def test_hours_are_the_same_however_they_are_asked_for(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            begin_ms, end_ms = self.since_ms - _WEEK_MS, self.before_ms
            middle_ms = self.since_ms - _WEEK_MS // 3
            parts = [
                *self._closed(plugin, begin_ms, middle_ms),
                *self._closed(plugin, middle_ms, end_ms),
            ]
            whole = merge(self._closed(plugin, begin_ms, end_ms))
            assert merge(parts) == whole, "two parts of a range are closed at other times than the whole"

        self.run(check)

    def _closed(self, plugin: MarketPlugin, since_ms: int, before_ms: int) -> list[TimeRange]:
        assert isinstance(plugin, MarketHours)
        told = plugin.closed(self.symbol, since_ms, before_ms)
        try:
            return [TimeRange(start_ms, end_ms) for start_ms, end_ms in told]
        except (TypeError, ValueError):
            raise AssertionError(f"closed has to return ranges, not {told!r}") from None
