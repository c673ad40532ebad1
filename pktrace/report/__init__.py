"""Output for people: files of results, terminal tables, plots, and the life of one packet."""
