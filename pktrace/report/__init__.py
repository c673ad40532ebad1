"""What people see: files of results, terminal tables, plots, and the life of one packet."""
