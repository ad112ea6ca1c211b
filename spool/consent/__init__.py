"""Who this install is, whether it may be counted, the first run and the opt-out.

`consent` tells once whether telemetry is on, `ConsentCache` often; `decide` is the rule. What is needed once in the
life of an install is imported from its own module: `first_run`, `opt_out`.
"""

from spool.consent.identity import (
    Consent,
    ConsentCache,
    Identity,
    consent,
    decide_for_all,
    home_state,
    project_id,
    read_stored,
    telemetry_json,
)
from spool.consent.rule import FileState, HomeState, decide, opted_out_by

__all__ = [
    "Consent",
    "ConsentCache",
    "FileState",
    "HomeState",
    "Identity",
    "consent",
    "decide",
    "decide_for_all",
    "home_state",
    "opted_out_by",
    "project_id",
    "read_stored",
    "telemetry_json",
]
