"""The service in user space: a forwarder between two interfaces, and the impairments that it applies to frames."""
