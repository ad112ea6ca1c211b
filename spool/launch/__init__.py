"""How a flusher is started (`start`), and where it delivers (`destination`): import from the modules."""
