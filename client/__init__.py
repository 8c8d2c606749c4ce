"""What runs beside the behaviour: the only side that reads it."""
