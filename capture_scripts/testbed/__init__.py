"""The laboratory: namespaces and their switch, filters, services and impairments, and the command line of ``lab``."""
