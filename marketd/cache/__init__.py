"""Bars kept near at hand, in buckets of time that say what they prove."""

from marketd.cache.base import BarCache, Claim
from marketd.cache.bucket import Bucket, BucketKey, bucket_of
from marketd.cache.memory import MemoryCache

__all__ = ["BarCache", "Bucket", "BucketKey", "Claim", "MemoryCache", "bucket_of"]
