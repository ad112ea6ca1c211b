"""The commands of `ktx-flush`."""
