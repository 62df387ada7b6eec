"""How much a client may say, and how many there may be: properties of the counts behind the limits."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.config import StreamConfig
from marketd.domain.errors import LimitExceeded
from marketd.web.ws.limits import MessageRate, Places
from marketd.web.ws.turns import Turns


@given(
    per_second=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=200),
)
def test_no_ten_seconds_hold_more_than_twice_their_share_and_a_steady_client_is_never_refused(
    per_second: int, pauses: list[float]
) -> None:
    now = [1_000.0]
    rate = MessageRate(per_second, lambda: now[0])
    passed = []
    for pause in pauses:
        now[0] += pause
        try:
            rate.take()
        except LimitExceeded:
            assert pause < 1 / per_second
        else:
            passed.append(now[0])
    for since in passed:
        # A client that has been silent may say at once what it did not say.
        assert sum(since <= at < since + 10 for at in passed) <= 20 * per_second + 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_no_more_clients_are_let_in_than_may_be_there(steps: list[tuple[str, bool]]) -> None:
    limits = StreamConfig(max_clients=5, max_clients_per_address=3)
    places = Places()
    there: Counter[str] = Counter()
    for address, comes in steps:
        if not comes:
            if there[address]:
                places.give_back(address)
                there[address] -= 1
        elif there.total() < 5 and there[address] < 3:
            places.take(address, limits)
            there[address] += 1
        else:
            with pytest.raises(LimitExceeded, match=r"max_clients"):
                places.take(address, limits)


async def test_no_more_is_taken_while_much_waits_for_its_turn() -> None:
    turns, may_go_on, obeyed = Turns(), asyncio.Event(), []

    async def obey(number: int) -> None:
        await may_go_on.wait()
        obeyed.append(number)

    async def say() -> None:
        for number in range(10):
            await turns.begin([], 60_000, partial(obey, number))

    saying = asyncio.create_task(say())
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(turns.under_way) == 5
    may_go_on.set()
    await saying
    await asyncio.gather(*turns.under_way)
    assert obeyed == list(range(10))
