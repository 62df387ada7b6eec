"""The words of the field, pure: no I/O, no framework, standard library and numpy only."""
