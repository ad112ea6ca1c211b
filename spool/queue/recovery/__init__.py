"""How a queue comes into being, and what is saved of a damaged one."""
