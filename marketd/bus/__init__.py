"""What several nodes tell each other: messages, and which of them leads what."""

from marketd.bus.base import BusAway, Held, Leases, MessageBus

__all__ = ["BusAway", "Held", "Leases", "MessageBus"]
