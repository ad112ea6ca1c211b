"""The commands of `ktx-flush`: a module for each, or for two that belong together, with `register(app)` for `cli`."""
