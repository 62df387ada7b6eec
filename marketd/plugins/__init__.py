"""The public API of plugin authors. A plugin imports from here and from `marketd.domain` alone."""

from marketd.clock import Clock, ScaledClock
from marketd.domain.rate_limit import RateLimit
from marketd.plugins.base import (
    BarStreams,
    BarUpdate,
    MarketHours,
    MarketPlugin,
    NoFields,
    PluginContext,
    TickHistory,
    TickStreams,
)
from marketd.plugins.extension import Extension, Route
from marketd.plugins.fields import TimeField, TimeframeField
from marketd.plugins.hookspecs import hookimpl

__all__ = [
    "BarStreams",
    "BarUpdate",
    "Clock",
    "Extension",
    "MarketHours",
    "MarketPlugin",
    "NoFields",
    "PluginContext",
    "RateLimit",
    "Route",
    "ScaledClock",
    "TickHistory",
    "TickStreams",
    "TimeField",
    "TimeframeField",
    "hookimpl",
]
