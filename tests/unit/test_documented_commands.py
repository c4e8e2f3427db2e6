"""What the documents promise: every command is accounted for, what can be run here is, tables parse, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from perfgate.baseline import DirectoryStore
from perfgate.catalogue import KINDS, load_catalogue
from perfgate.changes import ChangeSpec
from perfgate.claims import ClaimSpec
from perfgate.cli import main
from perfgate.errors import PerfgateError
from perfgate.history import History
from perfgate.records import Cell, SessionResults
from perfgate.results import write_results
from perfgate.selection import Request, select
from perfgate.server import ServerSpec
from perfgate.server.launch import ModelRef, docker_plan
from perfgate.server.spec import DockerLauncher
from perfgate.targets import GpuSpec, ModelSpec
from perfgate.workload import WorkloadSpec

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/unit/report"))
from report_data import session  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / ".github").glob("*.md"))]
REGISTER = ROOT / "docs/commands.md"
COMMAND = re.compile(r"(?:\.venv/bin/)?(?:pytest|perfgate|make|pip|docker|git|python3?) \S")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
SPECS = {
    "servers": ServerSpec,
    "workloads": WorkloadSpec,
    "gpus": GpuSpec,
    "models": ModelSpec,
    "claims": ClaimSpec,
    "changes": ChangeSpec,
}

pytestmark = pytest.mark.skipif(not REGISTER.is_file(), reason="the tests run outside the repository")


def commands(page: Path) -> Iterator[str]:
    """Every command of a page, in blocks and in running text, without its comment."""
    text = page.read_text(encoding="utf-8")
    for language, body in FENCE.findall(text):
        if language in {"", "console"}:
            for line in body.replace("\\\n", " ").splitlines():
                words = re.sub(r"\s+#.*", "", line.strip().removeprefix("$ "))
                if COMMAND.match(words):
                    yield words
    for words in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        if COMMAND.match(words):
            yield words


def register() -> list[dict[str, list[str]]]:
    """The three tables of the register, by command."""
    tables = []
    for part in re.split(r"^## ", REGISTER.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        rows = [line.strip("| \n").split(" | ") for line in part.splitlines() if line.startswith("| `")]
        tables.append({row[0].strip("`"): [cell.strip("`") for cell in row[1:]] for row in rows})
    return tables


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of every block of a language."""
    return [
        (page.name, body)
        for page in PAGES
        for found, body in FENCE.findall(page.read_text(encoding="utf-8"))
        if found == language
    ]


def test_every_command_is_accounted_for() -> None:
    """Each command of the documents is run as it stands, by a named test, or has a reason; and nothing else is listed."""
    # Pages of measurements are themselves what came of their commands.
    pages = [page for page in PAGES if page != REGISTER and not page.name.startswith("measured-on-")]
    found = {words for page in pages for words in commands(page)}
    listed = [words for table in register() for words in table]
    assert len(found) > 50
    assert sorted(found - set(listed)) == []
    assert sorted(set(listed) - found) == []
    assert len(listed) == len(set(listed))


def test_the_tests_named_exist() -> None:
    """Every test or workflow that is said to run a command is there, and every command that is not run has a reason."""
    _, by_test, not_run = register()
    assert by_test
    for command, (place, there) in by_test.items():
        file, _, name = place.partition("::")
        assert (ROOT / file).is_file(), command
        assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), command
        assert there
    assert all(len(reason) == 1 and len(reason[0]) > 10 for reason in not_run.values())


def on(gpu: str, name: str, *, like: SessionResults) -> SessionResults:
    """A session of the same content on another GPU."""

    def moved(cell: Cell) -> Cell:
        return cell.model_copy(update={"gpu": gpu, "server": "production-v2"})

    return like.model_copy(
        update={
            "session": name,
            "measurements": tuple(m.model_copy(update={"cell": moved(m.cell)}) for m in like.measurements),
            "verdicts": tuple(v.model_copy(update={"cell": moved(v.cell)}) for v in like.verdicts),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it looks after some sessions."""
    made = tmp_path_factory.mktemp("documented")
    example = session(cells=2, boots=3, runs=1, requests=4)
    kept = on("gb10", "one", like=example.results)
    write_results(made / ".perfgate/results", kept)
    write_results(made / "gb10-results", kept)
    write_results(made / "h100-results", on("h100", "two", like=example.results))
    History(made / ".perfgate/history.sqlite").append(kept)
    store = DirectoryStore(made / "baselines")
    for cell, baseline in example.baselines.items():
        moved = cell.model_copy(update={"server": "production-v2"})
        store.write(baseline.model_copy(update={"cell": moved}), replacing=None)
    return made


SAID = {
    "perfgate --help": "usage: perfgate",
    "perfgate baselines --missing": "",
    "perfgate history": "mean TTFT",
    "perfgate history --add .perfgate/results/*.json": "added session one",
    "perfgate history --gpu gb10 --server production-v2 --last 100": "gb10/qwen3.5-35b-a3b-fp8/production-v2",
    "perfgate history --metric all": "weights",
    "perfgate merge gb10-results/ h100-results/ --output all.json": "4 verdicts, 4 measurements from 2 sessions",
    "perfgate report": "REGRESSION",
    "perfgate report --format github": "::error file=baselines/",
    "perfgate report --format json": '"verdicts"',
    "perfgate report --format markdown": "| cell | metric |",
    "perfgate report -o report.html": "",
    "perfgate schema baseline": "urn:vllm-perfgate:baseline",
}


def test_what_is_run_as_it_stands_is_listed() -> None:
    """The first table of the register is what the next test runs."""
    assert set(register()[0]) == set(SAID)


@pytest.mark.parametrize("command", SAID)
def test_command_as_it_stands(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command, typed as documented, ends without an error and prints what it is there for."""
    monkeypatch.chdir(folder)
    words = [
        found
        for word in shlex.split(command)[1:]
        for found in (map(str, sorted(Path().glob(word))) if "*" in word else [word])
    ]
    try:
        status = main(words)
    except SystemExit as ended:
        status = int(ended.code or 0)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    # Which cells of this machine have no baseline is the answer of that one command.
    assert status == 0 or (status == 1 and "--missing" in words), printed.err
    assert SAID[command] in printed.out
    if "-o" in words:
        assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    "command",
    sorted({words for page in PAGES for words in commands(page) if "pytest " in words.split("-m")[0]}),
)
def test_pytest_takes_the_command(command: str, pytester: pytest.Pytester) -> None:
    """Pytest takes every option, and the GPU, model, servers and workloads that it names are entries."""
    from perfgate.pytest_plugin import suite_of

    own = "\n".join(body for page, body in blocks("toml") if page == "adding.md")
    # Names that stand for the reader's own entries.
    more = "".join(f'\n[servers.{name}]\nextends = "mine"\n' for name in ("new", "old"))
    (pytester.path / "perfgate.toml").write_text(f'{own}{more}\n[workloads.chat]\nextends = "agent"\n')
    words = [word for word in shlex.split(command)[1:] if not word.startswith("tests/")]
    # Each would collect garbage, or look for what is not needed, at the end of every one of these.
    unused = ("unraisableexception", "threadexception", "cacheprovider", "hypothesispytest", "benchmark")
    without = [word for name in unused for word in ("-p", f"no:{name}")]
    config = pytester.parseconfigure(*words, "--import-mode=importlib", *without)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    markers = [*config.getini("markers"), *project["markers"]]
    for marker in set(re.findall(r"\w+", config.getoption("markexpr"))) - {"and", "releases"}:
        assert any(line.startswith(marker) for line in markers), marker
    try:
        targets = suite_of(config).targets
    except PerfgateError as error:
        pytest.fail(str(error))
    assert targets


@pytest.mark.parametrize(("page", "body"), blocks("toml"))
def test_tables_are_entries(page: str, body: str, tmp_path: Path) -> None:
    """Every TOML table of the documents is an entry that the catalogues take, key by key."""
    file = tmp_path / "perfgate.toml"
    # What an example extends or measures may stand in another example.
    extra = "" if "[servers.mine" in body else "\n[servers.mine]\n"
    file.write_text(body + extra)
    given = tomllib.loads(body)
    assert given.keys() <= set(KINDS)
    for kind in KINDS:
        catalogue = load_catalogue(kind, user_files=[file])
        for name in given.get(kind, {}):
            catalogue[name].parse(SPECS[kind])


def test_the_action_in_five_lines_has_these_inputs() -> None:
    """The step shown for other repositories names inputs that the action has."""
    ((_, body),) = blocks("yaml")
    (step,) = yaml.safe_load(body)
    action = yaml.safe_load((ROOT / ".github/actions/gate/action.yml").read_text())
    assert step["with"].keys() <= action["inputs"].keys()
    assert "/.github/actions/gate@" in step["uses"]
    assert len(body.splitlines()) == 5


def test_the_docker_command_of_the_spark_is_the_one_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page of the DGX Spark says is started for production-v2 is what the launcher makes of the shipped entry."""
    monkeypatch.setenv("HOME", "/home/me")
    ((_, body),) = [found for found in blocks("text") if found[0] == "dgx-spark.md"]
    (target,) = select(Request(gpu="gb10", servers=["production-v2"], workloads=["chat"]))
    assert isinstance(target.server.launcher, DockerLauncher)
    plan = docker_plan(
        target.server,
        target.server.launcher,
        model=ModelRef(name=target.model.name, path=str(target.model.id)),
        port=8000,
        served_name="NAME",
        boot_id="BOOT",
        log=Path("log"),
        gpu_ids=None,
        extra_env={},
    )
    assert shlex.split(body.replace("~", "/home/me")) == plan.argv


def test_the_python_example_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code shown for the store prints the replicates of each stored cell."""
    ((_, body),) = blocks("python")
    monkeypatch.chdir(folder)
    exec(compile(body, "docs", "exec"), {})  # the documents of this repository
    assert "gb10/qwen3.5-35b-a3b-fp8/production-v2" in capsys.readouterr().out


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file of the repository, and its anchor a heading there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def test_every_page_is_linked_from_the_readme() -> None:
    """No page of docs/ is left for the reader to find by chance."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [
        page.name for page in sorted((ROOT / "docs").glob("*.md")) if f"(docs/{page.name})" not in readme
    ] == []


def test_files_named_in_the_documents_exist() -> None:
    """Paths of tests, sources and fixtures that a page names are there."""
    for page in PAGES:
        for path in re.findall(
            r"`((?:tests|src|fixtures|\.github|docs)/[\w./*-]+)`", page.read_text(encoding="utf-8")
        ):
            assert list(ROOT.glob(path.rstrip("/"))), f"{page.name}: {path}"
