"""Real logs, metrics pages and configuration pages with each line removed or changed: "unknown", never a guess, never a crash."""

import json
import re
from functools import cache
from pathlib import Path

import pytest

from perfgate.experiment.sampling import gauges
from perfgate.server import Effect, ServerSpec
from perfgate.server.api import parse_cache_config, parse_counters
from perfgate.server.bootlog import compile_events, failure_cause, parse_boot_log
from perfgate.server.flags import Evidence, flags_in_effect
from perfgate.server.settings import flat

DATA = Path(__file__).parent / "data"
LOGS = sorted(path.name for path in DATA.glob("*.log"))
PAGES = sorted(path.name for path in DATA.glob("*.metrics.txt"))
INFOS = sorted(path.name for path in DATA.glob("*.server_info.json"))
ASKED = ServerSpec(
    name="s",
    args={
        "mamba-cache-mode": "none",
        "enable-prefix-caching": True,
        "no-async-scheduling": True,
        "max-num-batched-tokens": 16384,
        "max-model-len": 16384,
        "enforce-eager": True,
        "block-size": 16,
        "kv-cache-dtype": "fp8",
        "load-format": "dummy",
        "dtype": "half",
        "reasoning-parser": "qwen3",
        "compilation-config": {"cudagraph_mode": "FULL"},
    },
    env={"VLLM_CPU_KVCACHE_SPACE": "1"},
)
OPPOSITE = {
    Effect.HONOURED: {Effect.OVERRIDDEN, Effect.IGNORED},
    Effect.OVERRIDDEN: {Effect.HONOURED},
    Effect.UNKNOWN: {Effect.HONOURED, Effect.OVERRIDDEN, Effect.IGNORED},
}


def lines_of(name):
    return (DATA / name).read_text(encoding="utf-8").splitlines()


def other_words(line):
    """The line in another wording: every word spelled backwards, numbers and signs as they are."""
    return re.sub(r"[A-Za-z]{3,}", lambda word: word[0][::-1], line)


def variants(lines, matters=lambda _line: True):
    """(line, text) with that line removed, in other words, cut or backwards; the lines that do not matter change all at once."""
    changes = (
        lambda _line: (),
        lambda line: (other_words(line),),
        lambda line: (line[: len(line) // 2],),
        lambda line: (line[::-1],),
    )
    relevant = [number for number, line in enumerate(lines) if matters(line)]
    for change in changes:
        for number in relevant:
            yield lines[number], "\n".join((*lines[:number], *change(lines[number]), *lines[number + 1 :]))
        yield (
            "the rest",
            "\n".join(text for line in lines for text in ((line,) if matters(line) else change(line))),
        )


SPEAKS = re.compile(
    r"WARNING|took|GiB|tokens|config|args|mode|cache|block|prefill|schedul|eager|dtype|compil|memory",
    re.IGNORECASE,
)


@cache
def said_alone(line):
    return tuple(parse_boot_log(line).quantities.items())


@pytest.mark.parametrize("name", LOGS)
def test_a_changed_line_of_a_log_leaves_its_figures_unknown(name):
    """Without a line, or with it in other words or cut, every figure is one that another line states, or absent."""
    lines = lines_of(name)
    stated = {pair for line in lines for pair in said_alone(line)}
    for line, text in variants(lines, SPEAKS.search):
        log = parse_boot_log(text)
        assert set(log.quantities.items()) <= stated, line
        failure_cause(text)
        compile_events(text.splitlines())


@pytest.mark.parametrize("name", LOGS)
def test_a_changed_line_of_a_log_turns_no_flag_around(name):
    """What the log says of a flag is lost with its line, never turned into the opposite, and nothing unknown becomes known."""
    lines = lines_of(name)
    whole = [found.effect for found in flags_in_effect(ASKED, Evidence(log=parse_boot_log("\n".join(lines))))]
    names = [re.sub("^(no-|enable-)*", "", name).replace("-", "[ _-]") for name in ASKED.args]
    speaks = re.compile("|".join((*names, "asynchronous scheduling", "VLLM_CPU")), re.IGNORECASE)
    assert any(map(speaks.search, lines))
    for line, text in variants(lines, speaks.search):
        for before, found in zip(
            whole, flags_in_effect(ASKED, Evidence(log=parse_boot_log(text))), strict=True
        ):
            assert found.effect not in OPPOSITE.get(before, set()), (line, found)


@pytest.mark.parametrize("name", PAGES)
def test_a_changed_line_of_a_metrics_page_costs_its_sample_alone(name):
    """Any broken line of the page is left out; every other counter keeps its value."""
    lines = [line for line in lines_of(name) if not line.startswith("#") and "_bucket{" not in line]
    counters = parse_counters("\n".join(lines))
    assert len(counters) > 20
    for line, text in variants(lines):
        own = parse_counters(line)
        found = parse_counters(text)
        assert {key: value for key, value in counters.items() if key not in own}.items() <= found.items()
        labels = parse_cache_config(text)
        assert labels == {} or labels == parse_cache_config("\n".join(lines))
        gauges(text)


@pytest.mark.parametrize("name", INFOS)
def test_a_changed_key_of_the_configuration_turns_no_flag_around(name):
    """A key that is missing, or whose value is of another kind, makes its flag unknown and leaves the others."""
    settings = flat(json.loads((DATA / name).read_text())["vllm_config"])
    whole = {found.name: found.effect for found in flags_in_effect(ASKED, Evidence(settings=settings))}
    assert set(whole.values()) >= {Effect.HONOURED, Effect.OVERRIDDEN}
    for key in settings:
        for value in ("missing", None, [], {}):
            changed = {name: old for name, old in settings.items() if name != key}
            if value != "missing":
                changed[key] = value
            for found in flags_in_effect(ASKED, Evidence(settings=changed)):
                if found.effect is not whole[found.name]:
                    assert found.effect is Effect.UNKNOWN, (key, value, found)
