"""Records: what they refuse, what survives JSON, and how replicates are read from them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from perfgate.documents import Kind, decode, encode
from perfgate.errors import ResultsAccessError, ResultsCorruptError, ResultsSchemaError
from perfgate.records import (
    Baseline,
    BootRecord,
    Cell,
    CellVerdict,
    Fingerprint,
    Measurement,
    MetricVerdict,
    Outcome,
    Provenance,
    RequestArrays,
    RunRecord,
    SessionResults,
)

KIND = Kind(
    word="document",
    corrupt=ResultsCorruptError,
    schema=ResultsSchemaError,
    access=ResultsAccessError,
    remedy="none",
    marks=frozenset(),
)
CELL = Cell(gpu="gb10", model="m", server="s", workload="w")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", ".hidden", "-flag", "a b", "a\n", "ü", "x" * 121]
)
def test_names_are_safe_path_components(name: str) -> None:
    """A name that could leave its folder, hide, look like a flag or differ between file systems is refused."""
    with pytest.raises(ValidationError):
        Cell(gpu=name, model="m", server="s", workload="w")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, "1", None, True])
def test_metrics_are_numbers(value: Any) -> None:
    """A metric that is not a finite number of zero or more is refused."""
    with pytest.raises(ValidationError):
        RunRecord(metrics={"mean_ttft_ms": value})


def test_records_are_frozen() -> None:
    """A record cannot be changed after it was made."""
    with pytest.raises(ValidationError, match="frozen"):
        CELL.gpu = "h100"  # type: ignore[misc]


def test_unknown_fields_are_refused() -> None:
    """A field that the schema does not have is refused, so that a misspelt one is not lost."""
    with pytest.raises(ValidationError):
        RunRecord(metrics={}, sede=42)  # type: ignore[call-arg]


def test_times_need_a_zone() -> None:
    """A time without a zone means different moments on different machines, and is refused."""
    with pytest.raises(ValidationError):
        RunRecord(metrics={}, started=datetime(2026, 4, 13))  # noqa: DTZ001


def test_arrays_have_one_length() -> None:
    """Per-request arrays of different lengths are refused with their lengths."""
    with pytest.raises(ValidationError, match="'sent': 2"):
        RequestArrays(
            scheduled=(0.0,),
            sent=(0.0, 1.0),
            first=(None,),
            last=(None,),
            prompt_tokens=(1,),
            output_tokens=(None,),
            outcome=("ok",),
        )


def run(*invalid: str, **metrics: float) -> RunRecord:
    """A run with these metrics."""
    return RunRecord(metrics=metrics, invalid=invalid)


def test_replicates_keep_boots_apart() -> None:
    """Replicates are the valid runs of each boot, one tuple a boot; void boots and boots without the metric are left out."""
    measurement = Measurement(
        cell=CELL,
        fingerprint=Fingerprint(),
        server={},
        workload={},
        boots=(
            BootRecord(id="1", runs=(run(x=1.0), run("failed"), run(x=2.0))),
            BootRecord(id="2", runs=(run(x=9.0),), void=("throttled",)),
            BootRecord(id="3", runs=(run(y=3.0),)),
            BootRecord(id="4", runs=(run(x=4.0),)),
        ),
    )
    assert measurement.replicates("x") == ((1.0, 2.0), (4.0,))


def test_metrics_of_the_boot_count_once() -> None:
    """A metric of the boot itself counts once a boot, however many runs the boot had."""
    boot = BootRecord(id="1", metrics={"ready_s": 31.0}, runs=(run(x=1.0), run(x=2.0)))
    measurement = Measurement(cell=CELL, fingerprint=Fingerprint(), server={}, workload={}, boots=(boot,))
    assert measurement.replicates("ready_s") == ((31.0,),)


@pytest.mark.parametrize(
    ("boot", "words"),
    [
        (BootRecord(id="b", runs=(run(x=1.0),), void=("slow state",)), "slow state"),
        (BootRecord(id="b", runs=(run("2 requests failed"),)), "2 requests failed"),
        (BootRecord(id="b", runs=(run(),)), "no metrics"),
        (BootRecord(id="b", runs=()), "no runs"),
    ],
)
def test_nothing_unbelieved_in_a_baseline(boot: BootRecord, words: str) -> None:
    """A baseline with a void boot, an invalid run, or nothing measured cannot be made."""
    with pytest.raises(ValidationError, match=words):
        Baseline(
            cell=CELL, provenance=Provenance(by="x", source="y"), fingerprint=Fingerprint(), boots=(boot,)
        )


def test_outcomes_are_ordered_worst_first() -> None:
    """Severity follows the order of definition: a regression is the worst and a pass the best outcome."""
    assert [outcome.name for outcome in sorted(Outcome, key=lambda outcome: outcome.severity)] == [
        "REGRESSION",
        "INVALID",
        "INCOMPARABLE",
        "NO_BASELINE",
        "RECORDED",
        "SUSPECT",
        "INCONCLUSIVE",
        "IMPROVEMENT",
        "PASS",
    ]


NAME = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._+-]{0,20}\Z")
NUMBER = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=20)
TIME = st.datetimes(timezones=st.just(UTC)) | st.none()
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SETTINGS = st.dictionaries(TEXT, PLAIN, max_size=4)
CELLS = st.builds(Cell, gpu=NAME, model=NAME, server=NAME, workload=NAME)


@st.composite
def arrays(draw: st.DrawFn) -> RequestArrays:
    """Arrays of one length."""
    length = draw(st.integers(0, 4))

    def of(items: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(items, min_size=length, max_size=length)))

    seconds, count = FINITE | st.none(), st.integers(0, 10**6) | st.none()
    return RequestArrays(
        scheduled=of(FINITE),
        sent=of(seconds),
        first=of(seconds),
        last=of(seconds),
        prompt_tokens=of(count),
        output_tokens=of(count),
        outcome=of(TEXT),
    )


RUNS = st.builds(
    RunRecord,
    seed=st.integers() | st.none(),
    started=TIME,
    averaged_over=st.integers(1, 9),
    metrics=st.dictionaries(NAME, NUMBER, max_size=3),
    invalid=st.lists(TEXT, max_size=2).map(tuple),
    client=st.dictionaries(NAME, FINITE, max_size=2),
    arrays=arrays() | st.none(),
)
BOOTS = st.builds(
    BootRecord,
    id=TEXT,
    started=TIME,
    metrics=st.dictionaries(NAME, NUMBER, max_size=2),
    settings=SETTINGS,
    probes=st.lists(SETTINGS, max_size=2).map(tuple),
    runs=st.lists(RUNS, max_size=3).map(tuple),
)
RESULTS = st.builds(
    SessionResults,
    session=TEXT,
    started=st.datetimes(timezones=st.just(UTC)),
    command=TEXT,
    perfgate=TEXT,
    measurements=st.lists(
        st.builds(
            Measurement,
            cell=CELLS,
            fingerprint=st.builds(Fingerprint, gpu_name=TEXT | st.none(), memory_gib=NUMBER | st.none()),
            server=SETTINGS,
            workload=SETTINGS,
            boots=st.lists(BOOTS, max_size=2).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    verdicts=st.lists(
        st.builds(
            CellVerdict,
            cell=CELLS,
            outcome=st.sampled_from(Outcome),
            metrics=st.lists(
                st.builds(
                    MetricVerdict, metric=NAME, outcome=st.sampled_from(Outcome), change=FINITE | st.none()
                ),
                max_size=2,
            ).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
)


@settings(max_examples=100, deadline=None)
@given(RESULTS)
def test_any_session_survives_json(results: SessionResults) -> None:
    """Whatever a session holds, None within its settings included, writing and reading it gives an equal record."""
    assert decode(encode(results), SessionResults, kind=KIND, source="x") == results
