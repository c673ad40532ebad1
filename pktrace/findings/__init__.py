"""Findings: counts over all packets - fates, losses by stage, rules, latency - and the tables they make."""
