"""Check whether captures can answer questions about latency, loss and rules."""
