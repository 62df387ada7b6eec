"""Bars in files: read and written a part at a time, so that a file may be larger than memory."""
