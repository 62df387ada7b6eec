"""The symbols of one provider, by market: kept for a time, then refreshed behind the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from marketd.domain.errors import MarketdError, ProviderFailed
from marketd.domain.instrument import SymbolInfo
from marketd.domain.text import is_text

Listing: TypeAlias = Mapping[str, SymbolInfo]
Ask: TypeAlias = Callable[[str], Coroutine[Any, Any, Listing]]

# How soon a list that could not be refreshed is tried again.
_RETRY_S = 30.0


class _Kept(NamedTuple):
    listing: Listing
    until_s: float


class SymbolBook:
    """Lists of symbols. `ask(market)` has the provider list them, or raises a MarketdError."""

    def __init__(self, ask: Ask, *, ttl_s: float) -> None:
        self._ask = ask
        self._ttl_s = ttl_s
        self._kept: dict[str, _Kept] = {}
        self._asking: dict[str, asyncio.Task[Listing]] = {}

    async def listing(self, market: str) -> Listing:
        """The symbols of `market`. One that is out of date is given all the same, and refreshed behind.

        Raises what `ask` does where none was ever had.
        """
        kept = self._kept.get(market)
        if kept is None:
            return await self._fresh(market)
        if time.monotonic() >= kept.until_s:
            self._refresh(market)
        return kept.listing

    async def find(self, market: str, symbol: str) -> SymbolInfo | None:
        """One symbol, or None. A list that is out of date and has it not is refreshed first."""
        info = (await self.listing(market)).get(symbol)
        if info is None and time.monotonic() >= self._kept[market].until_s:
            try:
                return (await self._fresh(market)).get(symbol)
            except MarketdError:
                return None
        return info

    def forget(self) -> None:
        """Begins anew: what was listed is another provider's."""
        self._kept.clear()
        self._asking.clear()

    async def close(self) -> None:
        """Ends what is under way."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _fresh(self, market: str) -> Listing:
        # Whoever gives up waiting leaves the others their answer.
        return await asyncio.shield(self._refresh(market))

    def _refresh(self, market: str) -> asyncio.Task[Listing]:
        """The one question that is under way for a market."""
        task = self._asking.get(market)
        if task is None:
            task = self._asking[market] = asyncio.create_task(self._ask(market))
            task.add_done_callback(lambda done: self._ended(market, done))
        return task

    def _ended(self, market: str, task: asyncio.Task[Listing]) -> None:
        if self._asking.get(market) is not task:
            return
        del self._asking[market]
        error = None if task.cancelled() else task.exception()
        kept = self._kept.get(market)
        if not task.cancelled() and error is None:
            self._kept[market] = _Kept(task.result(), time.monotonic() + self._ttl_s)
        elif kept is not None and isinstance(error, MarketdError):
            # The provider shows it as its health; what was listed before is still the best there is.
            until_s = time.monotonic() + min(self._ttl_s, _RETRY_S)
            self._kept[market] = kept._replace(until_s=until_s)


def by_symbol(listed: object, market: str, provider: str) -> Listing:
    """What a plugin listed of `market`; ProviderFailed if that is no list of symbols.

    A vendor may list a hundred thousand: it is for another thread than the event loop's.
    """
    if not isinstance(listed, Sequence) or not all(map(_is_symbol, listed)):
        told = f"{provider} answered with something that is not symbols."
        raise ProviderFailed(told, transient=False)
    return {info.symbol: info for info in listed if info.market == market}


def _is_symbol(info: object) -> bool:
    return (
        isinstance(info, SymbolInfo)
        and bool(info.symbol)
        and all(map(is_text, (info.symbol, info.name, info.base, info.quote)))
        and all(one is None or type(one) is int for one in (info.first_ms, info.last_ms))
    )
