"""`python -m flusher` is `ktx-flush`."""

from flusher.cli import main

main()
