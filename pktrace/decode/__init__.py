"""Headers and digest of every packet, by compiled loops that check every read against the captured bytes."""
