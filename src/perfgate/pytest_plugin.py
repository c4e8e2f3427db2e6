"""The pytest side: options, markers, which cells a test is run for, one table at the end.

Hooks only delegate. A verdict fails the test it belongs to; what is printed at the end decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from perfgate.errors import PerfgateError
from perfgate.plaintext import from_here, visible
from perfgate.pytesting.console import announce, progress
from perfgate.pytesting.findings import findings_of
from perfgate.pytesting.options import add_options, check_options, suite_options
from perfgate.pytesting.signals import die_with_controller, end_on_sigterm

# This module is imported by every pytest run of an environment that has perfgate: what is heavy waits until a test asks for it.
if TYPE_CHECKING:
    from perfgate.experiment.gate import Settled
    from perfgate.experiment.suite import Suite
    from perfgate.findings import Findings
    from perfgate.records import CellVerdict, Measurement, SessionResults
    from perfgate.selection import Target

SUITE = pytest.StashKey["Suite"]()
VERDICTS = pytest.StashKey[list["CellVerdict"]]()
FINDINGS = pytest.StashKey[list["Findings"]]()
MEASUREMENTS = pytest.StashKey[list["Measurement"]]()
"""Measurements of xdist workers, collected by the controller."""
WRITTEN = pytest.StashKey[Path | str]()
"""Where the results of the session are, or why they could not be written."""
PAGE = pytest.StashKey[list[str]]()
"""Where the HTML page is, and what is missing from it; and why page, history or job summary could not be written."""

SHORT = pytest.StashKey[str]()
"""A test's failure in one line, for pytest's short summary and the message of JUnit: its table stands above and at the end."""

WAITING = pytest.StashKey[set[str]]()
"""Tests of a server that have not run yet."""

ERROR = pytest.StashKey[PerfgateError]()
"""Why no cells could be chosen; it is reported if a test that needs them is left after deselection."""

_WANTED = {"target", "server_target"}
_REPORT_FIELD = "perfgate_verdicts"
_WORKER_FIELD = "perfgate_measurements"
_WORKER_FINDINGS = "perfgate_findings"

RECORDED = "perfgate.recorded"
"""Property of a test that recorded a baseline: where."""

SHIPPED_SUITE = "perfgate_suite"
"""The suite as it is installed with the package, for ``pytest --pyargs perfgate_suite``."""

MARKERS = (
    "serving: boots vLLM servers, measures and judges them against baselines",
    "kernels: autotune-key coverage and kernel-level tests",
    "claims: findings about flags, each an A/B test that holds or does not hold here",
    "parity: interleaves perfgate with vllm bench serve on one running server",
    "e2e: boots a real vLLM server",
    "gpu: needs a CUDA GPU on this machine",
    "stage(when): before_load or after_load; where a test of a running server stands among the measured cells",
)
FAILURE_WIDTH = 100
UNDECIDED = {"INCONCLUSIVE", "SUSPECT"}
GREEN = {"PASS", "IMPROVEMENT"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the one group of options."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Checks the options and prepares the session; nothing is looked up yet."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    check_options(config)
    config.stash[VERDICTS] = []
    config.stash[FINDINGS] = []
    config.stash[MEASUREMENTS] = []
    config.stash[COLLECTOR] = Collector(config.stash[VERDICTS], config.stash[FINDINGS])
    config.pluginmanager.register(config.stash[COLLECTOR], "perfgate-collector")
    if any(str(argument).startswith(SHIPPED_SUITE) for argument in config.invocation_params.args):
        for module in ("serving", "kernels", "claims", "sweep", "kernelgain"):
            config.pluginmanager.import_plugin(f"{SHIPPED_SUITE}.fixtures.{module}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``target`` runs once a cell; one that asks for ``server_target`` once a server."""
    wanted = _WANTED.intersection(metafunc.fixturenames)
    if not wanted:
        return
    try:
        targets = suite_of(metafunc.config).targets
    except PerfgateError as error:
        # Raised here it would be a traceback; and these tests may be deselected yet.
        metafunc.config.stash[ERROR] = error
        targets = ()
    if "target" in wanted:
        metafunc.parametrize("target", targets, ids=lambda target: str(target.cell), scope="session")
    if "server_target" in wanted:
        firsts = list({target.cell.server: target for target in reversed(targets)}.values())[::-1]
        metafunc.parametrize("server_target", firsts, ids=_server_id, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All tests of a server follow each other: those before the load, the measured cells, those after it."""
    error = config.stash.get(ERROR, None)
    if error is not None and any(_WANTED & set(getattr(item, "fixturenames", ())) for item in items):
        raise pytest.UsageError(str(error)) from error
    ours = [(item, found) for item in items if (found := _target(item)) is not None]
    servers = list(dict.fromkeys(target.cell.server for _, target in ours))
    order = {id(item): (servers.index(target.cell.server), _stage(item)) for item, target in ours}
    config.stash[WAITING] = {item.nodeid for item, _ in ours}
    slots = [index for index, item in enumerate(items) if id(item) in order]
    for index, item in zip(
        slots, sorted((item for item, _ in ours), key=lambda item: order[id(item)]), strict=True
    ):
        items[index] = item
    judged = {target.cell: target for item, target in ours if "target" in _parameters(item)}
    if judged:
        try:
            suite_of(config).plan(tuple(judged.values()))
        except PerfgateError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After the last test that wants a server none of ours runs on: the device is free for others, and other tests are alone."""
    waiting = item.config.stash.get(WAITING, set())
    if item.nodeid in waiting:
        waiting.discard(item.nodeid)
        if not waiting and SUITE in item.config.stash:
            item.config.stash[SUITE].close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Puts a test's verdicts on its report, in a form that crosses process borders."""
    report = yield
    verdicts = item.stash.get(VERDICTS, [])
    marker = item.get_closest_marker("stage")
    if report.failed and marker is not None and "before_load" in marker.args:
        target = _target(item)
        if target is not None:
            # Load on a server that is not what was asked for would measure something else.
            reason = f"{item.name} failed, so no load was spent on this server"
            suite_of(item.config).refuse(target.cell.server, reason)
    crash = getattr(report.longrepr, "reprcrash", None)
    if call.when == "call" and report.failed and crash is not None and SHORT in item.stash:
        crash.message = item.stash[SHORT]
    if call.when == "call" and verdicts:
        from perfgate.records import plain

        setattr(report, _REPORT_FIELD, [dict(plain(verdict)) for verdict in verdicts])
    return report


class Collector:
    """Collects the verdicts and findings of one session from its reports, also those that came from an xdist worker."""

    def __init__(self, verdicts: list[CellVerdict], findings: list[Findings]) -> None:
        self._verdicts = verdicts
        self._findings = findings
        self.recorded = False
        """Whether a test of the session recorded a baseline."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes the verdicts and findings off a report."""
        self.recorded = self.recorded or any(name == RECORDED for name, _ in report.user_properties)
        if report.when != "call":
            return
        verdicts = getattr(report, _REPORT_FIELD, ())
        if verdicts:
            from perfgate.records import CellVerdict

            self._verdicts.extend(CellVerdict.model_validate(data, strict=False) for data in verdicts)
        findings = findings_of(report)
        if findings is not None:
            self._findings.append(findings)


COLLECTOR = pytest.StashKey[Collector]()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any | None:
    """All tests of a server go to one worker."""
    from perfgate.pytesting.xdist import scheduler

    return scheduler(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Takes over what an xdist worker measured, and what it found and could not report."""
    from perfgate.findings import Findings
    from perfgate.records import Measurement

    sent = getattr(node, "workeroutput", {})
    node.config.stash[MEASUREMENTS].extend(map(Measurement.model_validate_json, sent.get(_WORKER_FIELD, [])))
    node.config.stash[FINDINGS].extend(map(Findings.model_validate_json, sent.get(_WORKER_FINDINGS, [])))
    if error:
        node.config.stash[WRITTEN] = f"a worker crashed ({error}); what it measured is lost"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Looks names up before xdist starts its workers."""
    _check_before_workers(session.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stops what runs, then keeps what was measured: also after a failure or Ctrl-C."""
    config = session.config
    made = config.stash.get(SUITE, None)
    if made is not None:
        made.close()
    elif not config.stash[MEASUREMENTS] and not config.stash[VERDICTS] and not config.stash[FINDINGS]:
        return
    from perfgate.report import github
    from perfgate.results import write_results

    suite = suite_of(config)
    if hasattr(config, "workeroutput"):
        config.workeroutput[_WORKER_FIELD] = [found.model_dump_json() for found in suite.measurements()]
        config.workeroutput[_WORKER_FINDINGS] = [found.model_dump_json() for found in suite.broken_off()]
        return
    verdicts, measurements = config.stash[VERDICTS], config.stash[MEASUREMENTS]
    findings = config.stash[FINDINGS]
    verdicts.extend(suite.unreported(verdicts))
    findings.extend(suite.broken_off())
    if not (verdicts or suite.measurements() or measurements or findings):
        return
    results = suite.results(verdicts, measurements, findings)
    directory = suite.options.results or suite.work / "results"
    try:
        config.stash[WRITTEN] = write_results(directory, results)
        if config.stash[COLLECTOR].recorded:
            suite.fit_noise(directory)
    except PerfgateError as error:
        config.stash[WRITTEN] = str(error)
    # None of what follows depends on the others, and none of it changes a verdict.
    config.stash[PAGE] = _remember(config, suite.work, results)
    page = config.getoption("--perfgate-html")
    if page is not None:
        config.stash[PAGE] += _write_page(page, results, suite.options.baselines)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(github.step_summary(results))
        except OSError as error:
            config.stash[PAGE].append(f"{summary}: the job summary cannot be written: {error.strerror}")


def _remember(config: pytest.Config, work: Path, results: SessionResults) -> list[str]:
    """Appends the session to the history; a history that cannot be written is a line at the end and changes no verdict."""
    from perfgate.history import remember

    location = config.getoption("--perfgate-history")
    if location == "none":
        return []
    warning = remember(location or str(work / "history.sqlite"), results)
    return [] if warning is None else [warning]


def _write_page(path: Path, results: SessionResults, baselines: Path | None) -> list[str]:
    """The HTML page and what is missing from it, as lines; a page that cannot be written changes no verdict."""
    from perfgate.commands.report import write_html

    try:
        missing = write_html(path, results, baselines=[baselines] if baselines else [])
    except PerfgateError as error:
        return [visible(error.message)]
    return [str(path), *map(visible, missing)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What claims, sweeps and changes came to, then one table of the verdicts, worst first."""
    verdicts, findings = config.stash[VERDICTS], config.stash[FINDINGS]
    if not verdicts and not findings:
        return
    from perfgate.findings import Findings
    from perfgate.report import attribution, github, terminal
    from perfgate.report.findings import sections

    for title, text in sections(sum(findings, Findings())):
        terminalreporter.section(title)
        terminalreporter.write_line(text)
    if verdicts:
        terminalreporter.section("perfgate")
        terminalreporter.write_line(
            terminal.table(
                verdicts,
                width=config.get_terminal_writer().fullwidth,
                colour=terminalreporter.hasmarkup,
                verbose=config.get_verbosity(),
            )
        )
        for line in attribution.lines(verdicts, width=config.get_terminal_writer().fullwidth):
            terminalreporter.write_line(line)
        terminalreporter.write_line(terminal.summary_line(verdicts))
    written = config.stash.get(WRITTEN, None)
    if written is not None and config.get_verbosity() >= 0:
        terminalreporter.write_line(f"results: {from_here(str(written))}")
    for line in config.stash.get(PAGE, ()):
        terminalreporter.write_line(f"report: {line}")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        terminalreporter.write_line(
            github.annotations(verdicts, workspace=os.environ.get("GITHUB_WORKSPACE", ""))
        )


def suite_of(config: pytest.Config) -> Suite:
    """The session of the suite, made when it is first asked for."""
    if SUITE not in config.stash:
        from perfgate.experiment.suite import Suite

        end_on_sigterm()
        if hasattr(config, "workerinput"):
            die_with_controller()
        config.stash[SUITE] = Suite(suite_options(config))
        config.stash[SUITE].progress = progress(config)
        config.stash[SUITE].announce = announce(config)
    return config.stash[SUITE]


def settle(request: pytest.FixtureRequest, settled: Settled) -> None:
    """Turns a verdict into the outcome of the test that asked for it, and keeps it for the table.

    Args:
        request: of the test.
        settled: the verdict, and where a baseline was recorded if one was.
    """
    from perfgate.pytesting.again import command
    from perfgate.report import junit, terminal

    verdict, recorded = settled
    suite = suite_of(request.config)
    verdict = verdict.model_copy(update={"command": command(verdict, request.config, suite.masked)})
    item = request.node
    item.stash.setdefault(VERDICTS, []).append(verdict)
    item.user_properties.extend(junit.properties(verdict))
    if recorded is not None:
        item.user_properties.append((RECORDED, recorded))
        pytest.skip(f"baseline recorded in {from_here(recorded)}; nothing was judged")
    if verdict.outcome in GREEN:
        return
    if verdict.outcome in UNDECIDED and not request.config.getoption("--strict-verdicts"):
        pytest.skip(f"{verdict.outcome}: {visible(verdict.reason)}")
    item.stash[SHORT] = visible(f"{verdict.outcome}: {verdict.reason}".partition("\n")[0])
    pytest.fail(terminal.table([verdict], width=FAILURE_WIDTH, colour=False), pytrace=False)


def require_hardware(request: pytest.FixtureRequest, target: Target) -> None:
    """Skips a test whose GPU this machine does not have; fails it under ``--require-gpu``."""
    absent = suite_of(request.config).absent_hardware(target)
    if absent is not None:
        missing_gpu(request, absent)


def missing_gpu(request: pytest.FixtureRequest, reason: str) -> NoReturn:
    """Skips for want of a GPU, or fails under ``--require-gpu``."""
    if request.config.getoption("--require-gpu"):
        pytest.fail(f"{reason} (--require-gpu)", pytrace=False)
    pytest.skip(reason)


def _check_before_workers(config: pytest.Config) -> None:
    """With xdist only workers collect, and an error there is a crash: look the names up before they start."""
    expression = config.getoption("markexpr", "") or ""
    if (
        getattr(config.option, "dist", "no") == "no"
        or "not serving" in expression
        or "serving" not in expression
    ):
        return
    try:
        suite_of(config).plan(suite_of(config).targets)
    except PerfgateError as error:
        raise pytest.UsageError(str(error)) from error


def _server_id(target: Target) -> str:
    return f"{target.cell.gpu}/{target.cell.model}/{target.cell.server}"


def _parameters(item: pytest.Item) -> dict[str, Any]:
    callspec = getattr(item, "callspec", None)
    return dict(callspec.params) if callspec is not None else {}


def _target(item: pytest.Item) -> Target | None:
    parameters = _parameters(item)
    found = parameters.get("target", parameters.get("server_target"))
    return found if hasattr(found, "cell") else None


def _stage(item: pytest.Item) -> int:
    marker = item.get_closest_marker("stage")
    return {"before_load": 0, "after_load": 2}.get(str(marker.args[0]) if marker else "", 1)
