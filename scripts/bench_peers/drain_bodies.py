"""Post the bodies of a folder, one after the other: `drain_bodies.py HOST FOLDER`. The limit of any flusher."""

import gzip
import sys
from pathlib import Path

import requests


def main(host: str, folder: str) -> None:
    """Post each file as it is, if it is compressed, else compress it as the flusher does."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    with requests.Session() as session:
        for path in sorted(Path(folder).iterdir()):
            content = path.read_bytes()
            body = content if path.suffix == ".gz" else gzip.compress(content, 6)
            session.post(f"{host}/batch/", data=body, headers=headers, timeout=30).raise_for_status()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
