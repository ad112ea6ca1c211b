"""The commands of `ktx-flush`, each a function; `cli` has the table of their names."""
