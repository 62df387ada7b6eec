"""Backfills: history fetched ahead of the questions, with what the interactive callers leave."""
