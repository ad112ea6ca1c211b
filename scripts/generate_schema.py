"""Write spool/events.schema.json from the typed events; with --check only say whether it is current.

Exit code 1 from --check means that it isn't: run this without it, and commit the file with the events.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from spool.ktx_events import CATALOGUE  # noqa: E402 - found through the line above

TARGET = ROOT / "spool" / "events.schema.json"

if __name__ == "__main__":
    text = json.dumps(CATALOGUE.json_schema(), indent=2) + "\n"
    if sys.argv[1:] != ["--check"]:
        TARGET.write_text(text, encoding="ascii")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit(f"{TARGET.relative_to(ROOT)} is not current: run scripts/generate_schema.py")
