"""Whether a baseline is due for a new recording: its age, what moved under it, and how well it was measured."""

from __future__ import annotations

from datetime import datetime, timedelta

from perfgate.records import Baseline, Fingerprint

OLD = timedelta(days=90)
FEW_BOOTS = 3

SOFTWARE: tuple[tuple[str, str], ...] = (
    ("vllm", "vLLM"),
    ("image_digest", "image"),
    ("driver", "driver"),
    ("cuda", "CUDA"),
    ("torch", "PyTorch"),
    ("triton", "Triton"),
    ("kernel", "kernel"),
    ("python", "Python"),
    ("settings_hash", "settings"),
)
"""Fingerprint fields that change without the hardware changing, the most telling first."""


def moved_software(before: Fingerprint, after: Fingerprint) -> tuple[str, ...]:
    """What changed between two fingerprints of one machine, most telling first: ``vLLM 0.25.1 → 0.32.0``.

    A field that either side does not know is left out: not knowing is no change.
    """
    moved = []
    for field, word in SOFTWARE:
        old, new = getattr(before, field), getattr(after, field)
        if old is not None and new is not None and old != new:
            moved.append(f"{word} {_short(old)} → {_short(new)}")
    return tuple(moved)


def refresh_advice(
    baseline: Baseline, now: Fingerprint, *, at: datetime, old: timedelta = OLD
) -> tuple[str, ...]:
    """Why a baseline should be recorded again, one sentence a reason; empty where there is none.

    The advice is about the baseline, not the verdict: software that moved is judged first, and recorded afterwards.

    Args:
        baseline: the stored one.
        now: the machine as it is.
        at: the present moment, with a time zone.
        old: the age from which on a baseline is called old.
    """
    advice = []
    recorded = baseline.provenance.recorded
    if recorded is None:
        advice.append("The baseline does not say when it was recorded.")
    elif at - recorded >= old:
        advice.append(f"The baseline is {(at - recorded).days} days old ({recorded:%Y-%m-%d}).")
    elif recorded - at > timedelta(days=1):
        advice.append(
            f"The baseline was recorded in the future ({recorded:%Y-%m-%d}): check this machine's clock."
        )
    moved = moved_software(baseline.fingerprint, now)
    if moved:
        advice.append(
            f"Since it was recorded: {', '.join(moved)}. Once that is judged and accepted, record it anew."
        )
    boots = len(baseline.boots)
    if boots < FEW_BOOTS:
        words = "1 boot" if boots == 1 else f"{boots} boots"
        advice.append(f"It was measured on {words}; {FEW_BOOTS} or more show how much boots differ.")
    if baseline.provenance.source != "measured":
        advice.append(f"It was not measured here ({baseline.provenance.source}).")
    return tuple(advice)


def _short(value: str) -> str:
    digest = value.rpartition(":")[2]
    long = len(digest) >= 32 and all(character in "0123456789abcdef" for character in digest)
    return digest[:12] if long else value
