"""A conformance kit for provider plugins: the checks that marketd's own plugins pass.

The checks are methods for pytest to find and to run, but need nothing of it.
"""

from marketd.plugins.testing.kit import ProviderKit

__all__ = ["ProviderKit"]
