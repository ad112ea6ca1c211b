"""Post the bodies of a folder, one after the other: `drain_bodies.py HOST FOLDER`. The limit of any flusher."""

import sys
from pathlib import Path

import requests


def main(host: str, folder: str) -> None:
    """Post each file as it is: JSON, compressed."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    with requests.Session() as session:
        for path in sorted(Path(folder).iterdir()):
            session.post(f"{host}/batch/", data=path.read_bytes(), headers=headers, timeout=30).raise_for_status()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
