"""The stream: a socket's life, and what clients may say on it."""
