"""What a host CLI embeds: every capture is on disk before it returns; `ktx-flush` delivers it later.

Importing this loads neither the queue nor anything of the delivery side.
"""

from spool.consent import Identity
from spool.host import Receipt
from spool.settings import VERSION, Limits
from spool.telemetry import Telemetry

__version__ = VERSION

__all__ = ["Identity", "Limits", "Receipt", "Telemetry", "__version__"]
