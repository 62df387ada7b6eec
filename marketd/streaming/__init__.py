"""Live: one upstream a series, any number of clients, no closed bar lost between history and now."""
