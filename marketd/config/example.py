"""The configuration file that shows every setting."""

from __future__ import annotations

from marketd.config.sections import kept_settings, sections
from marketd.config.settings import declared


def example_toml() -> str:
    """A configuration file with every setting commented out, at its default and with its help."""
    lines = [
        "# The settings of marketd, each with its default. Remove the # before a setting to change it.",
        '# A duration has a unit, "30s": ms, s, m (minute), h, d, w (7 days), y (365 days).',
        '# A size has one too, "64KB": B, KB (1024 bytes), MB, GB.',
        "# An environment variable wins over the file: MARKETD_SERVER__PORT=9000 for port of [server].",
    ]
    for section, cls in sections().items():
        lines += ["", f"# {cls.__doc__}", f"[{section}]"]
        for each in declared(section, cls):
            lines += [f"# {each.help} ({each.type})", f"#{each.key} = {each.default}"]
    lines += [
        "",
        "# Where data comes from: a table for each provider, under any name of a-z, 0-9, _ and -, with",
        "# its plugin and the plugin's own settings. Secrets go to [providers.<name>.credentials], and",
        '# rate_limit, "10/s" or "300/5m", replaces what the plugin says that the provider allows.',
        "# Without any provider there is this one, and what installed plugins add to it:",
        "#[providers.sim]",
        '#plugin = "sim"',
        "#seed = 1",
        "",
        "# Instruments whose history is kept filled and repaired: a [[backfill]] for each list of them.",
        "# Such as, with the defaults of what may be left out:",
        "#   [[backfill]]",
        '#   provider = "sim"',
        '#   market = "crypto"',
        '#   symbols = ["BTC/USD", "ETH/USD"]',
        '#   timeframe = "1m"',
    ]
    lines += [f"#   {each.key} = {each.default}" for each in kept_settings() if each.default]
    return "\n".join(lines) + "\n"
