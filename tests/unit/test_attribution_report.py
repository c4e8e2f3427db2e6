"""An attribution in words: terminal lines, Markdown, a section of the page; and through a results file."""

import pytest
from rich.cells import cell_len

from perfgate.experiment.attribution_record import next_step
from perfgate.records import AttributedMetric, AttributedPart, Attribution, Cell, CellVerdict, Outcome
from perfgate.report import attribution
from perfgate.report.html import sections

FLAG, PAIR, NOTHING = "--max-num-seqs 16 → 1", "--b <2>", "MODE=|x|"


def part(*settings, effect=1.0, named=False, together=False, share=0.5):
    return AttributedPart(
        settings=settings,
        effect=effect,
        lower=effect - 0.1,
        upper=effect + 0.1,
        share=share,
        probability=1.0,
        named=named,
        together=together,
        boots=3,
    )


def found(**changes):
    metric = AttributedMetric(
        metric="mean_ttft_ms",
        total=2.0,
        lower=1.5,
        upper=2.5,
        unexplained=0.01,
        unexplained_lower=-0.05,
        unexplained_upper=None,
        settled=True,
        parts=(
            part(NOTHING, effect=0.0, share=None),
            part(FLAG, named=True),
            part(FLAG, PAIR, effect=0.4, named=True, together=True),
        ),
    )
    fields = {
        "settings": (FLAG, PAIR, NOTHING),
        "units": ((FLAG,), (PAIR,), (NOTHING,)),
        "responsible": (FLAG, PAIR),
        "ended": "explained",
        "search_boots": 7,
        "ab_boots": 6,
        "minutes": 9.4,
        "metrics": (metric,),
    }
    return Attribution(**{**fields, **changes})


def verdict(attributed):
    cell = Cell(gpu="cpu", model="m", server="s", workload="w")
    return CellVerdict(cell=cell, outcome=Outcome.REGRESSION, attribution=attributed)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, f"because of {FLAG} and {PAIR} (7 boots beyond the 6 of the A/B, 9 min)"),
        ({"kind": "versions", "responsible": (FLAG,)}, f"comes back by {FLAG} ("),
        ({"ended": "budget", "undecided": (NOTHING,)}, f"not all of it is explained, undecided: {NOTHING}"),
        ({"ended": "budget", "responsible": ()}, "no setting could be named ("),
        (
            {"ended": "no effect", "responsible": (), "search_boots": 0},
            "no difference is confirmed (6 boots)",
        ),
        ({"ended": "no effect", "responsible": ()}, "the slowdown did not last (7 boots"),
        ({"ended": "no effect", "responsible": (), "direction": "faster"}, "the gain did not last (7 boots"),
        ({"direction": "faster"}, f"faster because of {FLAG} and {PAIR} (7 boots"),
        ({"direction": "faster", "kind": "versions", "responsible": (FLAG,)}, f"is lost again by {FLAG} ("),
        (
            {"direction": "faster", "kind": "versions", "responsible": (), "ended": "elsewhere"},
            "the moved defaults do not make it: what is faster is in the code",
        ),
        (
            {"ended": "elsewhere", "responsible": (), "kind": "versions"},
            "the moved defaults do not bring it back: ",
        ),
        (
            {"ended": "elsewhere", "responsible": (), "kind": "versions", "settings": ()},
            "no default that a flag can set has moved: what is slower is in the code",
        ),
    ],
)
def test_headline_says_what_was_found(changes, said):
    """Each ending has its own sentence, with what it cost."""
    assert said in attribution.headline(found(**changes))


def test_what_is_responsible_comes_first_and_what_is_left_last():
    """Named settings lead, then what they do together, then the innocent; an interval without an end is none."""
    names = [row[0] for row in attribution.rows(found().metrics[0], found())]
    assert names == [
        f"* {FLAG}",
        f"* {FLAG} together with {PAIR}",
        f"  {NOTHING}",
        "left without them",
    ]
    assert attribution.rows(found().metrics[0], found())[-1][2] == "none"


def test_across_versions_effects_are_what_comes_back():
    """Pins make it faster again, so neither the title nor the last row speaks of slower."""
    one = found(kind="versions")
    assert attribution.title(one.metrics[0], one).startswith("mean TTFT: +200.0% comes back with all")
    assert attribution.rows(one.metrics[0], one)[-1][0] == "comes back without them"
    assert "slower" not in attribution.document(one)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_lines_fit_the_terminal_and_align(width):
    """Table lines are no wider than the terminal, and the numbers of a table end in the same column."""
    long = found(settings=("x" * 200,), responsible=())
    lines = attribution.lines([verdict(long)], width=width)
    table = [line for line in lines if line.startswith("    ")]
    assert len(table) == 5
    assert all(cell_len(line) <= width for line in table)
    assert len({cell_len(line) for line in table[:-1]}) == 1


@pytest.mark.parametrize("width", [80, 160])
def test_long_values_show_what_differs(width):
    """Of two long values that differ at the end, every line shows both ends, and the next step does."""
    same = ", ".join(f'"operator_{number}"' for number in range(40))
    words = f"--splitting-ops [{same}, one] → [{same}, two]"
    one = found(
        settings=(words,),
        responsible=(words,),
        metrics=(found().metrics[0].model_copy(update={"parts": (part(words, named=True),)}),),
    )
    said = [*attribution.lines([verdict(one)], width=width), attribution.document(one), next_step(one)]
    assert all("operator_20" not in line for line in said)
    assert [line for line in said if "one" in line and "two" in line] == [
        said[1],
        said[4],
        *said[-2:],
    ]


def test_a_verdict_without_attribution_says_nothing():
    """Nothing is printed where nothing was attributed."""
    assert attribution.lines([verdict(None)], width=80) == []


def test_markdown_and_page_hold_the_same_rows_escaped():
    """Markdown escapes what would break its table; the page's table has the same rows."""
    one = found()
    text = attribution.document(one)
    assert "|x|" not in text
    assert "<2>" not in text
    (table,) = sections.attribution(one).tables
    assert table.rows == tuple(attribution.rows(one.metrics[0], one))
    assert not sections.attribution(None).holds_anything


def test_an_attribution_survives_its_json():
    """A verdict with an attribution is the same after it was written and read."""
    before = verdict(found())
    assert CellVerdict.model_validate_json(before.model_dump_json()) == before
