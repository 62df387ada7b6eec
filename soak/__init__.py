"""marketd killed again and again: `make soak`, or `python -m soak --help`."""
