"""HTTP and WebSocket: the only room that knows status codes and frames."""
