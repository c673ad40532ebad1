"""The way from a run to its tables: counts over all packets, fates, losses by stage, rules, latency, criteria."""
