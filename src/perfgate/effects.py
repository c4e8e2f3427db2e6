"""What became of a setting that a server was asked for."""

from __future__ import annotations

from enum import StrEnum

from perfgate.record import Record


class Effect(StrEnum):
    """What became of a setting."""

    HONOURED = "honoured"
    OVERRIDDEN = "overridden"
    IGNORED = "ignored"
    UNKNOWN = "unknown"


class FlagReport(Record):
    """One requested flag or variable, and what runs."""

    name: str
    """``--mamba-cache-mode``, or the name of a variable."""
    asked: str
    running: str | None = None
    """What runs, where a source says."""
    effect: Effect
    source: str = ""
    """Which source said so."""
    because: str = ""
    """The log line that explains it."""
    accepted: str = ""
    """The reason why the server's entry accepts it; empty where it does not."""

    @property
    def harmful(self) -> bool:
        """Whether a measurement would be of something else than was asked for, and nobody accepted that."""
        return self.effect in (Effect.OVERRIDDEN, Effect.IGNORED) and not self.accepted

    def __str__(self) -> str:
        asked = f"{self.name} {self.asked}".rstrip()
        running = f", {self.running} runs" if self.effect is Effect.OVERRIDDEN else ""
        source = f" ({self.source})" if self.source else ""
        because = f"\n    {self.because}" if self.because else ""
        accepted = f"\n    accepted: {self.accepted}" if self.accepted else ""
        return f"{asked}: {self.effect}{running}{source}{because}{accepted}"
