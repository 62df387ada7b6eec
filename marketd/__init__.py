"""marketd: one daemon that keeps, fills and serves market data from any provider."""

__version__ = "0.1.0"
