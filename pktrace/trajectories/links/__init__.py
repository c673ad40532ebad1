"""Links between flows: the evidence that a box has made one flow of another."""
