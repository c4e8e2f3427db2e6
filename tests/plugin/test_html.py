"""What a session leaves beside its results: the page, and a point in the history."""


def test_the_page_is_written_with_the_verdicts(project):
    """The page holds the cell of the session, and the summary says where it is."""
    result = project.pytest("--replicates", "1", "--perfgate-html", "out/report.html")
    page = (project.path / "out/report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "cpu/fake-model/fake/quick" in page
    assert "report: out/report.html" in result.stdout.str()
    assert (project.path / ".perfgate/history.sqlite").exists()


def test_a_page_and_a_history_that_cannot_be_written_change_no_verdict(project):
    """A page, a job summary and a history that cannot be written are each said at the end; outcome, exit status and results stay."""
    (project.path / "taken").mkdir()
    history = project.path / ".perfgate/history.sqlite"
    history.parent.mkdir()
    history.write_text("no database at all, but something that somebody may want to look at")
    result = project.pytest(
        "--new-baselines", "--replicates", "1", "--perfgate-html", "taken", GITHUB_STEP_SUMMARY="taken"
    )
    result.assert_outcomes(skipped=1)
    assert result.ret == 0
    assert "report: taken: the report cannot be written: Is a directory" in result.stdout.str()
    assert "report: taken: the job summary cannot be written: Is a directory" in result.stdout.str()
    assert "history.sqlite: the history cannot be used" in result.stdout.str()
    assert history.read_text().startswith("no database at all")
    assert project.session()["verdicts"]
