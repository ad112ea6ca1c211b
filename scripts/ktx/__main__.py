"""Run the example host: `python scripts/ktx ingest DB`."""

from ktx_app import main

main()
