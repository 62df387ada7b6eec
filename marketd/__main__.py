"""`python -m marketd` is the command `marketd`."""

from marketd.cli import main

main()
