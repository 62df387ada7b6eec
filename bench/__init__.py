"""marketd against its performance budget: `make bench`, or `python -m bench --help`."""
