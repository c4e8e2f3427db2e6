"""Which of several settings boot together: what an error names is left away, and halves that do not come up are parted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from perfgate.experiment.attribution_settings import Setting
from perfgate.statistics.attribution_units import Boot

Settings = tuple[Setting, ...]


@dataclass(frozen=True, kw_only=True)
class Together:
    """What boots.

    Attributes:
        settings: those that boot together.
        left_out: those that do not boot beside them.
        boot: the boot with all of ``settings``; None where nothing boots, or the time was over before it was known.
    """

    settings: Settings
    left_out: Settings
    boot: Boot | None


def together(
    settings: Sequence[Setting], boot: Callable[[Settings], tuple[Boot, str]], in_time: Callable[[], bool]
) -> Together:
    """Boots until it is known which settings come up together. A release may refuse what an older one could set.

    Args:
        settings: all of them.
        boot: one boot with some of them, and the error where it did not come up.
        in_time: whether there is time for another boot.
    """
    rest, left_out, again = tuple(settings), tuple[Setting, ...](), True
    while rest and in_time():
        found, problem = boot(rest)
        if not found.failed:
            return _whole(rest, left_out, found)
        blamed = tuple(setting for setting in rest if setting.is_blamed(problem))
        if not blamed and not again:
            return _parted(rest, left_out, boot, in_time)
        again = again and bool(blamed)  # a machine may fail once
        rest, left_out = tuple(one for one in rest if one not in blamed), (*left_out, *blamed)
    return Together(settings=rest, left_out=left_out, boot=None)


def _parted(
    settings: Settings,
    left_out: Settings,
    boot: Callable[[Settings], tuple[Boot, str]],
    in_time: Callable[[], bool],
) -> Together:
    """Adds what comes up beside what already does, halves first: about 2·log₂ k boots for one that does not."""
    kept, last = tuple[Setting, ...](), None
    parts = _halves(settings)
    while parts:
        if not in_time():
            return Together(settings=kept, left_out=left_out, boot=None)
        part = parts.pop(0)
        found, _ = boot((*kept, *part))
        if not found.failed:
            kept, last = (*kept, *part), found
        elif len(part) == 1:
            left_out = (*left_out, *part)
        else:
            parts[:0] = _halves(part)
    return _whole(kept, left_out, last) if last else Together(settings=(), left_out=left_out, boot=None)


def _halves(settings: Settings) -> list[Settings]:
    middle = len(settings) // 2
    return [half for half in (settings[:middle], settings[middle:]) if half]


def _whole(settings: Settings, left_out: Settings, boot: Boot) -> Together:
    everything = replace(boot, applied=frozenset(range(len(settings))))
    return Together(settings=settings, left_out=left_out, boot=everything)
