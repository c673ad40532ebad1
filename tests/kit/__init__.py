"""Writers of captures, builders of packets and the generator of synthetic runs."""
