"""What an event is: built once at capture, frozen as ASCII JSON, and the same from then on.

`compose` puts one together, `envelope` and `host_facts` give what every event carries, `freeze` makes its text.
`check_stored` and `normalise` are for events that another program wrote.
"""

from spool.event.build import Event, check_stored, compose, encode_message, freeze, normalise, rfc3339
from spool.event.envelope import envelope, host_facts

__all__ = [
    "Event",
    "check_stored",
    "compose",
    "encode_message",
    "envelope",
    "freeze",
    "host_facts",
    "normalise",
    "rfc3339",
]
