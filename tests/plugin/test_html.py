"""--perfgate-html: the page of the session that just ran."""


def test_the_page_is_written_with_the_verdicts(project):
    """The page holds the cell of the session, and the summary says where it is."""
    result = project.pytest("--replicates", "1", "--perfgate-html", "out/report.html")
    page = (project.path / "out/report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "cpu/fake-model/fake/quick" in page
    assert "report: out/report.html" in result.stdout.str()


def test_a_page_that_cannot_be_written_changes_no_verdict(project):
    """A folder in the page's place is said at the end; outcome, exit status and results file stay."""
    (project.path / "taken").mkdir()
    result = project.pytest("--new-baselines", "--replicates", "1", "--perfgate-html", "taken")
    result.assert_outcomes(skipped=1)
    assert result.ret == 0
    assert "report: taken" in result.stdout.str()
    assert project.session()["verdicts"]
