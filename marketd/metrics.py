"""Every metric, in one place: name, meaning and labels. `docs/metrics.md` lists them, tested."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one daemon, in a registry of its own so that two daemons can share a process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.http_requests = Counter(
            "marketd_http_requests_total",
            "Requests answered.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.http_seconds = Histogram(
            "marketd_http_request_seconds",
            "Time to answer a request.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.bars_served = Counter(
            "marketd_bars_served_total",
            "Bars that answered reads, by the source: base bars, or of aggregates coarser ones.",
            ["source"],
            registry=registry,
        )
        self.read_seconds = Histogram(
            "marketd_read_seconds",
            "Time of a read of bars, by the farthest source that some of them came from.",
            ["source"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.reads_coalesced = Counter(
            "marketd_reads_coalesced_total",
            "Calls of a provider that were not made, since one for the same bars was under way.",
            ["provider"],
            registry=registry,
        )
        self.bars_stored = Counter(
            "marketd_bars_stored_total",
            "Bars stored for the first time.",
            ["provider"],
            registry=registry,
        )
        self.bars_revised = Counter(
            "marketd_bars_revised_total",
            "Stored closed bars that the provider changed later.",
            ["provider"],
            registry=registry,
        )
        self.bars_refused = Counter(
            "marketd_bars_refused_total",
            "Bars refused because they cannot be right, by reason.",
            ["provider", "reason"],
            registry=registry,
        )
        self.ticks_stored = Counter(
            "marketd_ticks_stored_total",
            "Trades stored, each once.",
            ["provider"],
            registry=registry,
        )
        self.ticks_refused = Counter(
            "marketd_ticks_refused_total",
            "Trades refused because they cannot be right, by reason.",
            ["provider", "reason"],
            registry=registry,
        )
        self.ticks_too_late = Counter(
            "marketd_ticks_too_late_total",
            "Trades that a stream told too late (ticks.late) to change the bars made of trades.",
            ["provider"],
            registry=registry,
        )
        self.storage_faults = Counter(
            "marketd_storage_faults_total",
            "Times that the database has begun to take no writes, by the reason: full, read_only, io, "
            "away or other.",
            ["reason"],
            registry=registry,
        )
        self.storage_fault_seconds = Counter(
            "marketd_storage_fault_seconds_total",
            "Time in which the database took no writes.",
            registry=registry,
        )
        self.pages_cut_short = Counter(
            "marketd_pages_cut_short_total",
            "Short pages that turned out not to be all there was, against the plugin's word.",
            ["provider"],
            registry=registry,
        )
        self.fetch_seconds = Histogram(
            "marketd_provider_fetch_seconds",
            "Time a provider took for one page of bars.",
            ["provider"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.provider_errors = Counter(
            "marketd_provider_errors_total",
            "Calls of a provider that failed, by error code.",
            ["provider", "code"],
            registry=registry,
        )
        self.provider_up = Gauge(
            "marketd_provider_up",
            "1 if the provider is open and its last call succeeded, else 0.",
            ["provider"],
            registry=registry,
        )
        self.rate_limit_seconds = Histogram(
            "marketd_rate_limit_wait_seconds",
            "Time that calls of a provider waited for their turn under its rate limit.",
            ["provider"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.rate_limit_refused = Counter(
            "marketd_rate_limit_refused_total",
            "Calls of a provider that were not made, since their turn would have come too late.",
            ["provider"],
            registry=registry,
        )
        self.rate_limit_pauses = Counter(
            "marketd_rate_limit_pauses_total",
            "Times that a provider asked for patience, upon which nobody calls it for that long.",
            ["provider"],
            registry=registry,
        )
        self.redis_up = Gauge(
            "marketd_redis_up",
            "1 if Redis answered the last time it was asked; 0 if it is away, or none is configured.",
            registry=registry,
        )
        self.backfills_running = Gauge(
            "marketd_backfills_running", "Backfills under way.", registry=registry
        )
        self.backfill_chunks = Counter(
            "marketd_backfill_chunks_total",
            "Pieces of history that backfills have brought.",
            ["provider"],
            registry=registry,
        )
        self.loop_lag = Gauge(
            "marketd_loop_lag_seconds",
            "How late the event loop was the last time it was measured.",
            registry=registry,
        )
        self.plugins_failed = Gauge(
            "marketd_plugins_failed",
            "Installed plugins that could not be imported or registered.",
            registry=registry,
        )
        self.extension_failures = Counter(
            "marketd_extension_failures_total",
            "Calls of a plugin's routes, or of its reaction to stored bars, that failed or took long.",
            ["plugin"],
            registry=registry,
        )
        self.stream_clients = Gauge(
            "marketd_stream_clients", "WebSocket clients connected.", registry=registry
        )
        self.stream_subscriptions = Gauge(
            "marketd_stream_subscriptions", "Streams that clients are subscribed to.", registry=registry
        )
        self.stream_subscribes = Counter(
            "marketd_stream_subscribes_total",
            "Streams that clients have subscribed to so far.",
            registry=registry,
        )
        self.stream_upstreams = Gauge(
            "marketd_stream_upstreams",
            "Series followed for this node's clients, at a provider or through the leader.",
            registry=registry,
        )
        self.tape_upstreams = Gauge(
            "marketd_tape_upstreams",
            "Instruments whose trades are followed for them, in the same way.",
            registry=registry,
        )
        self.stream_leading = Gauge(
            "marketd_stream_leading",
            "Series, and tapes, that this node follows for all nodes.",
            registry=registry,
        )
        self.stream_led = Counter(
            "marketd_stream_leader_changes_total",
            "Times that this node became the one that follows a series, or a tape, for all.",
            registry=registry,
        )
        self.bus_up = Gauge(
            "marketd_bus_up",
            "1 while this node and others divide what they follow; 0 if Redis is away, or it is alone.",
            registry=registry,
        )
        self.bus_lag = Histogram(
            "marketd_bus_lag_seconds",
            "From a closed bar, or a trade, at the node that leads to this one, by both their clocks.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.stream_messages = Counter(
            "marketd_stream_messages_total", "Messages written to WebSocket clients.", registry=registry
        )
        self.stream_bytes = Counter(
            "marketd_stream_bytes_total", "Bytes written to WebSocket clients.", registry=registry
        )
        self.stream_queued = Gauge(
            "marketd_stream_queued_bytes",
            "Bytes that wait for WebSocket clients to take them.",
            registry=registry,
        )
        self.stream_lag = Histogram(
            "marketd_stream_lag_seconds",
            "Time from the close of a bar, by the provider's clock, until its clients were sent it.",
            ["provider"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stream_tick_lag = Histogram(
            "marketd_stream_tick_lag_seconds",
            "Time from a trade, by the provider's clock, until its clients were sent it.",
            ["provider"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stream_refused = Counter(
            "marketd_stream_refused_total",
            "Clients that were not let in, since there were too many.",
            registry=registry,
        )
        self.stream_conflated = Counter(
            "marketd_stream_conflated_total",
            "Forming bars replaced by a newer one before a client took them.",
            registry=registry,
        )
        self.stream_cut = Counter(
            "marketd_stream_cut_total", "Clients cut because they could not keep up.", registry=registry
        )
        self.task_crashes = Counter(
            "marketd_task_crashes_total",
            "Background tasks that failed and were started again.",
            ["task"],
            registry=registry,
        )
