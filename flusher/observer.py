"""What a run tells whoever watches it while it is under way."""

from __future__ import annotations

__all__ = ["Observer"]


class Observer:
    """Nobody watches. Who does overrides what he wants to know; nothing of it may raise, or take long."""

    def begins(self, waiting: int) -> None:
        """A drain of so many events begins."""

    def settled(self, events: int) -> None:
        """So many events left the queue: delivered, or rejected."""

    def waits(self, seconds: float, reason: str) -> None:
        """The destination failed, and is asked again in so many seconds."""

    def ends(self) -> None:
        """The drain is over, whatever ended it."""
