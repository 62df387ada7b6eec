"""The aiohttp application: which address leads to which handler."""

from __future__ import annotations

from aiohttp import web

from marketd.backfill.gate import LoadGate
from marketd.backfill.manager import BackfillManager
from marketd.config import ServerConfig, StreamConfig
from marketd.encoding import to_json
from marketd.market.aggregates import Aggregates
from marketd.market.service import MarketService
from marketd.metrics import Metrics
from marketd.plugins.loader import PluginLoader
from marketd.streaming.broadcast import BroadcastManager
from marketd.streaming.service import SubscriptionService
from marketd.streaming.tapes import TapeService
from marketd.streaming.tick_bars import TickBarService
from marketd.web import docs_page, keys, openapi, validation
from marketd.web.errors import Handler, errors
from marketd.web.middlewares import measured, strict
from marketd.web.ready import READY, ReadyAnswers, ready
from marketd.web.routes import aggregates as aggregate_routes
from marketd.web.routes import backfills as backfill_routes
from marketd.web.routes import market as market_routes
from marketd.web.routes import system as system_routes
from marketd.web.routes.plugins import plugin_routes
from marketd.web.ws.endpoint import StreamEndpoint


def make_app(
    *,
    server: ServerConfig,
    stream: StreamConfig,
    market: MarketService,
    aggregates: Aggregates,
    backfills: BackfillManager,
    gate: LoadGate,
    loader: PluginLoader,
    broadcast: BroadcastManager,
    subscriptions: SubscriptionService,
    tapes: TapeService,
    tick_bars: TickBarService,
    metrics: Metrics,
    readiness: keys.Readiness,
    answers: ReadyAnswers,
) -> web.Application:
    """An application over services that are open already and are closed by who opened them."""
    app = web.Application(
        middlewares=[measured, ready, errors, strict, validation.validation_middleware],
        client_max_size=server.max_body,
    )
    validation.install(app)
    app[keys.MARKET] = market
    app[keys.AGGREGATES] = aggregates
    app[keys.BACKFILLS] = backfills
    app[keys.GATE] = gate
    app[keys.LOADER] = loader
    app[keys.SUBSCRIPTIONS] = subscriptions
    app[keys.TAPES] = tapes
    app[keys.TICK_BARS] = tick_bars
    app[keys.METRICS] = metrics
    app[keys.READINESS] = readiness
    app[keys.STREAM_CONFIG] = stream
    app[READY] = answers
    endpoint = StreamEndpoint(broadcast, metrics)
    app.on_shutdown.append(endpoint.shutdown)
    app.add_routes(
        [
            _get("/api/v1/markets", market_routes.get_markets),
            _get("/api/v1/providers", market_routes.get_providers),
            _get("/api/v1/symbols", market_routes.get_symbols),
            _get("/api/v1/ohlcv", market_routes.get_ohlcv),
            _get("/api/v1/ticks", market_routes.get_ticks),
            _get("/api/v1/gaps", market_routes.get_gaps),
            _post("/api/v1/aggregates/refresh", aggregate_routes.refresh_aggregates),
            _get("/api/v1/backfills", backfill_routes.get_backfills),
            _post("/api/v1/backfills", backfill_routes.post_backfill),
            _get("/api/v1/backfills/{id}", backfill_routes.get_backfill),
            _delete("/api/v1/backfills/{id}", backfill_routes.delete_backfill),
            _post("/api/v1/backfills/{id}/pause", backfill_routes.pause_backfill),
            _post("/api/v1/backfills/{id}/resume", backfill_routes.resume_backfill),
            _get("/api/v1/stream", endpoint.handle),
            _get("/", system_routes.get_root),
            _get("/healthz", system_routes.get_healthz),
            _get("/readyz", system_routes.get_readyz),
            _get("/metrics", system_routes.get_metrics),
            _get("/openapi.json", system_routes.get_openapi),
            _get("/docs", system_routes.get_docs),
        ]
    )
    app.add_routes(plugin_routes(loader.extensions, timeout_ms=server.request_timeout, metrics=metrics))
    document = openapi.describe(app)
    app[keys.OPENAPI] = to_json(document)
    app[keys.DOCS_PAGE] = docs_page.render(document)
    return app


def _get(path: str, handler: Handler) -> web.RouteDef:
    return web.get(path, handler, allow_head=False)


def _delete(path: str, handler: Handler) -> web.RouteDef:
    return web.delete(path, handler)


def _post(path: str, handler: Handler) -> web.RouteDef:
    return web.post(path, handler)
