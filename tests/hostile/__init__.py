"""The hostile suite: attacks on the reader, the recorder and the host, each tried and counted (docs/security.md)."""
