"""Who this install is, whether it may be counted, and what follows from a no."""
