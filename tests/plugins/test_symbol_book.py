"""Lists of symbols: asked for once, served while they are out of date, and refreshed behind."""

from __future__ import annotations

import asyncio

import pytest

from marketd.domain.errors import ProviderFailed
from marketd.domain.instrument import SymbolInfo
from marketd.plugins.symbols import Listing, SymbolBook


class Lister:
    """Lists what it has when it is let."""

    def __init__(self) -> None:
        self.has = ["A"]
        self.asked = 0
        self.fails = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self, market: str) -> Listing:
        self.asked += 1
        await self.answers.wait()
        if self.fails:
            raise ProviderFailed("no symbols today.")
        return {name: SymbolInfo(name, market) for name in self.has}

    async def has_been_asked(self, times: int) -> None:
        """Returns once it was, and has answered."""
        async with asyncio.timeout(30):
            while self.asked < times:  # noqa: ASYNC110 - a counter has no event
                await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def lister() -> Lister:
    return Lister()


def outdated(lister: Lister) -> SymbolBook:
    return SymbolBook(lister, ttl_s=0)


async def test_many_who_ask_at_once_make_one_question(lister: Lister) -> None:
    book = SymbolBook(lister, ttl_s=60)
    listings = await asyncio.gather(*(book.listing("crypto") for _ in range(10)))
    assert {*listings[0]} == {"A"}
    assert (await book.find("crypto", "A")) == SymbolInfo("A", "crypto")
    assert (await book.find("crypto", "X")) is None
    assert lister.asked == 1


async def test_a_list_that_is_out_of_date_is_given_at_once_and_refreshed_behind(
    lister: Lister,
) -> None:
    book = outdated(lister)
    await book.listing("crypto")
    lister.answers.clear()
    lister.has = ["A", "B"]
    assert set(await book.listing("crypto")) == {"A"}
    assert (await book.find("crypto", "A")) is not None
    lister.answers.set()
    await lister.has_been_asked(2)
    assert set(await book.listing("crypto")) == {"A", "B"}


async def test_a_symbol_that_is_not_in_an_old_list_is_looked_for_in_a_new_one(lister: Lister) -> None:
    book = outdated(lister)
    await book.listing("crypto")
    lister.has = ["B"]
    assert (await book.find("crypto", "B")) is not None


async def test_while_the_provider_fails_the_old_list_is_the_answer(lister: Lister) -> None:
    book = outdated(lister)
    await book.listing("crypto")
    lister.fails = True
    assert set(await book.listing("crypto")) == {"A"}
    assert (await book.find("crypto", "A")) is not None
    assert (await book.find("crypto", "B")) is None


async def test_without_any_list_the_failure_is_the_answer_and_the_next_asks_again(
    lister: Lister,
) -> None:
    lister.fails = True
    book = SymbolBook(lister, ttl_s=60)
    with pytest.raises(ProviderFailed, match="no symbols today"):
        await book.listing("crypto")
    lister.fails = False
    assert set(await book.listing("crypto")) == {"A"}


async def test_a_refresh_that_failed_is_not_tried_again_at_once(lister: Lister) -> None:
    book = SymbolBook(lister, ttl_s=1e-3)
    await book.listing("crypto")
    lister.fails = True
    book._ttl_s = 60
    await asyncio.sleep(2e-3)
    await book.listing("crypto")
    await lister.has_been_asked(2)
    for _ in range(10):
        await book.listing("crypto")
        await asyncio.sleep(0)
    assert lister.asked == 2


async def test_who_gives_up_waiting_leaves_the_others_their_answer(lister: Lister) -> None:
    book = SymbolBook(lister, ttl_s=60)
    lister.answers.clear()
    impatient = asyncio.create_task(book.listing("crypto"))
    patient = asyncio.create_task(book.listing("crypto"))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    lister.answers.set()
    assert set(await patient) == {"A"}
    assert lister.asked == 1


async def test_what_is_under_way_ends_with_it(lister: Lister) -> None:
    book = SymbolBook(lister, ttl_s=60)
    lister.answers.clear()
    waiting = asyncio.create_task(book.listing("crypto"))
    await asyncio.sleep(0)
    await book.close()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
