import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from report_data import HOSTILE, mixed, verdict

from perfgate.records import Outcome
from perfgate.report import junit
from perfgate.report.escape import visible


def test_a_machine_reads_back_what_was_measured() -> None:
    """Verdict, change and interval ends are properties, numbers in full."""
    made = verdict(Outcome.REGRESSION, change=0.1)
    found = dict(junit.properties(made))
    metric = next(m for m in made.metrics if m.metric == "mean_ttft_ms")
    assert found["perfgate.verdict"] == "REGRESSION"
    assert found["perfgate.mean_ttft_ms.verdict"] == "REGRESSION"
    assert float(found["perfgate.mean_ttft_ms.change"]) == metric.change
    assert float(found["perfgate.mean_ttft_ms.lower"]) == metric.lower
    assert float(found["perfgate.mean_ttft_ms.upper"]) == metric.upper
    assert found["perfgate.mean_ttft_ms.unit"] == "ms"


def test_names_are_unique() -> None:
    """No property hides another."""
    for made in mixed():
        names = [name for name, _ in junit.properties(made)]
        assert len(names) == len(set(names))


def test_what_is_not_known_has_no_property() -> None:
    """A missing value is left out, never an empty string or a zero."""
    found = dict(junit.properties(verdict(Outcome.NO_BASELINE)))
    assert set(found) == {"perfgate.cell", "perfgate.verdict", "perfgate.reason", "perfgate.next"}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_survives_xml(text: str) -> None:
    """Every value is text that an XML document can hold and gives back unchanged."""
    for name, value in junit.properties(verdict(Outcome.REGRESSION, text=text)):
        element = ET.Element("property", name=name, value=value)
        back = ET.fromstring(ET.tostring(element))
        assert back.attrib == {"name": name, "value": value}


def test_a_hostile_session_leaves_a_file_that_xml_parsers_read(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With control characters, markup and surrogates in reasons, failures and output the file is XML with no element of theirs."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    pytester.makepyfile(
        """
        import pytest
        from report_data import HOSTILE, verdict
        from perfgate.records import Outcome
        from perfgate.report import junit, terminal

        @pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
        def test_cell(request, text):
            made = verdict(Outcome.REGRESSION, text=text)
            request.node.user_properties.extend(junit.properties(made))
            print(text.encode("utf-8", "replace").decode())
            pytest.fail(terminal.table([made], width=100, colour=False), pytrace=False)
        """
    )
    pytester.runpytest_inprocess("--junitxml=found.xml", "-p", "no:cacheprovider").assert_outcomes(
        failed=len(HOSTILE)
    )
    tree = ET.parse(pytester.path / "found.xml")
    assert {element.tag for element in tree.iter()} <= {
        "testsuites", "testsuite", "testcase", "properties", "property", "failure", "system-out",
    }  # fmt: skip
    cases = list(tree.iter("testcase"))
    assert len(cases) == len(HOSTILE)
    for case, text in zip(cases, HOSTILE, strict=True):
        found = {one.get("name"): one.get("value") for one in case.iter("property")}
        assert found["perfgate.reason"] == visible(text)
        assert found["perfgate.mean_ttft_ms.verdict"] == "REGRESSION"
