"""How local commands reach the store of a daemon that runs: a unix socket beside the database."""
