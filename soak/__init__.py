"""marketd killed again and again, and its power cut: `make soak`, or `python -m soak --help`."""
