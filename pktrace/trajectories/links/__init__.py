"""Links between flows: what evidence shows that a box has made one flow of another."""
