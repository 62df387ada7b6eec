"""What the handlers find in the application."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from marketd.backfill.gate import LoadGate
from marketd.backfill.manager import BackfillManager
from marketd.config import StreamConfig
from marketd.market.aggregates import Aggregates
from marketd.market.service import MarketService
from marketd.metrics import Metrics
from marketd.plugins.loader import PluginLoader
from marketd.streaming.service import SubscriptionService
from marketd.streaming.tapes import TapeService
from marketd.streaming.tick_bars import TickBarService


class Readiness(Protocol):
    """Whether the daemon can answer."""

    @property
    def is_ready(self) -> bool:
        """True once the store is open and takes writes, until shutdown begins."""

    @property
    def reason(self) -> str:
        """Why not, in a sentence; empty if it is ready."""

    @property
    def nodes(self) -> tuple[str, str]:
        """Whether this is the `one` node, or `together` with others, or `alone`, and then why."""


BACKFILLS = web.AppKey("BACKFILLS", BackfillManager)
GATE = web.AppKey("GATE", LoadGate)
MARKET = web.AppKey("MARKET", MarketService)
AGGREGATES = web.AppKey("AGGREGATES", Aggregates)
LOADER = web.AppKey("LOADER", PluginLoader)
SUBSCRIPTIONS = web.AppKey("SUBSCRIPTIONS", SubscriptionService)
TICK_BARS = web.AppKey("TICK_BARS", TickBarService)
TAPES = web.AppKey("TAPES", TapeService)
METRICS = web.AppKey("METRICS", Metrics)
READINESS = web.AppKey("READINESS", Readiness)
STREAM_CONFIG = web.AppKey("STREAM_CONFIG", StreamConfig)
OPENAPI = web.AppKey("OPENAPI", bytes)
DOCS_PAGE = web.AppKey("DOCS_PAGE", str)
