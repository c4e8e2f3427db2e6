"""`perfgate compare`: stored files, judged offline."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from perfgate.cli import main
from perfgate.noise import NoiseClass, NoiseModel, write_noise
from perfgate.records import (
    Baseline,
    BootRecord,
    Cell,
    Fingerprint,
    Measurement,
    Provenance,
    RunRecord,
    SessionResults,
)
from perfgate.results import write_file

MACHINE = Fingerprint(gpu_name="NVIDIA GB10", gpu_count=1)
WORKLOAD = {"concurrency": 4, "input_len": 8192, "output_len": 256}


def boots(*ttft, invalid=()):
    return tuple(
        BootRecord(
            id=f"b{number}",
            runs=(RunRecord(metrics={} if invalid else {"mean_ttft_ms": value}, invalid=invalid),),
        )
        for number, value in enumerate(ttft)
    )


def cell(server="s"):
    return Cell(gpu="gb10", model="m", server=server, workload="w")


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Files(tmp_path)


class Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def baseline(self, *ttft, server="s") -> str:
        made = Baseline(
            cell=cell(server),
            provenance=Provenance(by="t", source="measured"),
            fingerprint=MACHINE,
            workload=WORKLOAD,
            boots=boots(*ttft),
        )
        path = self.folder / f"baseline-{server}.json"
        path.write_text(made.model_dump_json(by_alias=True))
        return str(path)

    def result(self, *ttft, server="s", name="result", invalid=(), machine=MACHINE) -> str:
        measurement = Measurement(
            cell=cell(server),
            fingerprint=machine,
            server={},
            workload=WORKLOAD,
            boots=boots(*ttft, invalid=invalid),
        )
        path = self.folder / f"{name}.json"
        write_file(
            path,
            SessionResults(
                session=name,
                started=datetime(2026, 1, 1, tzinfo=UTC),
                command="pytest",
                perfgate="0",
                measurements=(measurement,),
            ),
        )
        return str(path)

    def noise(self, sd=0.015) -> str:
        path = self.folder / "noise.json"
        one = NoiseClass(
            metric="mean_ttft_ms",
            concurrency="2-4",
            prior_df=20.0,
            prior_variance=sd**2,
            boot_variance=sd**2,
            session_variance=0.0,
            session_variance_upper=0.0,
            cells=5,
            sessions=4,
            boots=40,
            runs=40,
        )
        model = NoiseModel(
            gpu="gb10",
            fitted=datetime(2026, 1, 1, tzinfo=UTC),
            perfgate="0",
            sources=("a",),
            hardware=MACHINE.hardware(),
            classes=(one,),
        )
        write_noise(path, model)
        return str(path)


def compare(*arguments, capsys):
    status = main(["compare", *arguments])
    return status, capsys.readouterr()


def test_equal_within_the_margin_exits_zero(files, capsys):
    """A result that excludes the margin passes."""
    status, shown = compare(
        files.baseline(100, 101, 99, 100, 100),
        files.result(100, 100, 101),
        "--noise",
        files.noise(),
        capsys=capsys,
    )
    assert status == 0
    assert "PASS" in shown.out


def test_a_stored_baseline_alone_convicts_nobody(files, capsys):
    """The study's phase 3 against its one-run reference is SUSPECT with a noise model, and undecided for the exit status."""
    status, shown = compare(
        files.baseline(5249), files.result(5857, 5678, 5793), "--noise", files.noise(), capsys=capsys
    )
    assert status == 3
    assert "SUSPECT" in shown.out
    assert "+10.0%" in shown.out


def test_interleaved_pairs_of_that_size_are_a_regression(files, capsys):
    """The same slowdown measured in turn on five boots a side is a confirmed REGRESSION, exit 1."""
    status, shown = compare(
        files.result(5249, 5301, 5190, 5222, 5263, name="old"),
        files.result(5857, 5678, 5793, 5770, 5812, name="new"),
        "--interleaved",
        "--noise",
        files.noise(),
        capsys=capsys,
    )
    assert status == 1
    assert "REGRESSION" in shown.out


def test_two_servers_are_compared_by_their_workload(files, capsys):
    """Results of two flag sets are paired where workload, model and GPU leave no doubt."""
    status, shown = compare(
        files.result(100, 101, 99, server="a", name="a"),
        files.result(50, 51, 49, server="b", name="b"),
        "--interleaved",
        capsys=capsys,
    )
    assert status == 0
    assert "IMPROVEMENT" in shown.out


def test_an_ab_that_cannot_tell_asks_for_pairs(files, capsys):
    """Two noisy pairs without a noise model are undecided, and the next step is more pairs, of which three can tell."""
    status, shown = compare(
        files.result(100, 140, name="a"), files.result(110, 150, name="b"), "--interleaved", capsys=capsys
    )
    assert status == 3
    said = " ".join(shown.out.split())
    assert "measure more pairs (--replicates)" in said
    assert "Without a noise model at least 3 pairs can show a slowdown." in said


def test_invalid_results_exit_two(files, capsys):
    """A result whose runs cannot be believed is no verdict about speed."""
    status, shown = compare(
        files.baseline(100), files.result(1, 1, invalid=("3 of 4 requests: reset",)), capsys=capsys
    )
    assert status == 2
    assert "3 of 4 requests: reset" in shown.out


def test_other_hardware_is_not_compared(files, capsys):
    """A baseline of another GPU is INCOMPARABLE, exit 3."""
    other = Fingerprint(gpu_name="NVIDIA H100 80GB HBM3", gpu_count=1)
    status, shown = compare(files.baseline(100), files.result(100, machine=other), capsys=capsys)
    assert status == 3
    assert "INCOMPARABLE" in shown.out


def test_nothing_in_common_exits_three_and_says_what_there_is(files, capsys):
    """Files about different cells are named with their cells."""
    kept = files.baseline(100)
    data = json.loads(Path(kept).read_text())
    data["cell"]["workload"] = "other"
    Path(kept).write_text(json.dumps(data))
    status, shown = compare(kept, files.result(100), capsys=capsys)
    assert status == 3
    assert "gb10/m/s/other" in shown.err
    assert "gb10/m/s/w" in shown.err


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 99, "cell": {}}'])
def test_a_broken_file_is_a_message(files, capsys, content):
    """What is no baseline or results file exits 2 with the file's name and no traceback."""
    path = files.folder / "broken.json"
    path.write_text(content)
    status, shown = compare(str(path), files.result(1.0), capsys=capsys)
    assert status == 2
    assert "broken.json" in shown.err
    assert "Traceback" not in shown.err


def test_json_carries_interval_and_outcome(files, capsys):
    """--format json gives each verdict with its metrics, change and interval."""
    status, shown = compare(
        files.baseline(100, 101, 99),
        files.result(100, 100, 101),
        "--noise",
        files.noise(),
        "--format",
        "json",
        capsys=capsys,
    )
    (verdict,) = json.loads(shown.out)
    assert verdict["metrics"][0]["lower"] < verdict["metrics"][0]["change"] < verdict["metrics"][0]["upper"]
    assert status in (0, 3)


@pytest.fixture
def tree(files):
    """A folder of baselines of two servers with their noise model, and a session that measured both, the second 30% slower."""
    for server in ("s", "t"):
        folder = files.folder / "baselines/gb10/m" / server
        folder.mkdir(parents=True)
        Path(files.baseline(100, 101, 99, 100, 100, server=server)).rename(folder / "w.json")
    Path(files.noise()).rename(files.folder / "baselines/gb10/noise.json")
    results = files.folder / "results"
    results.mkdir()
    first, second = (
        SessionResults.model_validate_json(Path(files.result(*ttft, server=server, name=server)).read_text())
        for server, ttft in (("s", (100, 100, 101)), ("t", (130, 131, 129)))
    )
    both = first.model_copy(update={"measurements": (*first.measurements, *second.measurements)})
    write_file(results / "20260101T000000Z-s.json", both)
    return files


@pytest.mark.parametrize(
    ("folder", "cells"),
    [("baselines", ["s", "t"]), ("baselines/gb10/m/t", ["t"]), ("baselines/gb10", ["s", "t"])],
)
def test_a_folder_of_baselines_is_compared_cell_by_cell(tree, capsys, folder, cells):
    """Every cell that both sides have is judged against its own file, with the noise model of the folder, at whatever level it is given."""
    status, shown = compare(folder, "results", "--format", "json", capsys=capsys)
    found = json.loads(shown.out)
    assert [verdict["cell"]["server"] for verdict in found] == cells
    for verdict in found:
        server = verdict["cell"]["server"]
        assert verdict["outcome"] == {"s": "PASS", "t": "SUSPECT"}[server]
        assert verdict["baseline_file"].endswith(f"{server}/w.json")
    assert status == 3


@pytest.mark.parametrize(("folder", "cells"), [("baselines", ["s", "t"]), ("baselines/gb10/m/t", ["t"])])
def test_a_cell_that_the_folder_has_no_baseline_for_is_no_pass(tree, capsys, folder, cells):
    """A measured cell without a baseline is NO_BASELINE, exit 3; a server's own folder is meant for that server alone."""
    (tree.folder / "baselines/gb10/m/s/w.json").unlink()
    slow = tree.folder / "baselines/gb10/m/t/w.json"
    slow.write_text(slow.read_text().replace("100", "130").replace("101", "131").replace("99.0", "129.0"))
    status, shown = compare(folder, "results", "--format", "json", capsys=capsys)
    outcomes = {verdict["cell"]["server"]: verdict["outcome"] for verdict in json.loads(shown.out)}
    assert outcomes == {server: {"s": "NO_BASELINE", "t": "PASS"}[server] for server in cells}
    assert status == (3 if "s" in cells else 0)


def test_a_folder_with_nothing_in_it_is_a_message(files, capsys):
    """An empty folder exits 2 and says which folders are meant."""
    (files.folder / "empty").mkdir()
    status, shown = compare("empty", files.result(100), capsys=capsys)
    assert status == 2
    assert "empty: no baseline and no results file in this folder" in shown.err


def test_a_broken_baseline_in_a_folder_is_named(tree, capsys):
    """A baseline that cannot be read is never left out of the comparison."""
    (tree.folder / "baselines/gb10/m/t/w.json").write_text("{")
    status, shown = compare("baselines", "results", capsys=capsys)
    assert status == 2
    assert "t/w.json" in shown.err


def test_margins_and_tolerances_are_those_of_the_entries(files, capsys):
    """As in the suite: a GPU entry's margin and tolerance hold, and the workload's margin over it."""
    (files.folder / "perfgate.toml").write_text(
        "[gpus.gb10.margins]\nmean_ttft_ms = 0.5\n[gpus.gb10.tolerances]\nmean_ttft_ms = 0.4\n"
    )
    arguments = (files.baseline(100, 101, 99), files.result(130, 131, 129), "--noise", files.noise())
    status, shown = compare(*arguments, "--format", "json", capsys=capsys)
    assert status == 0
    (metric,) = json.loads(shown.out)[0]["metrics"]
    assert (metric["margin"], metric["tolerance"]) == (0.5, 0.4)
    (files.folder / "other.toml").write_text("[gpus.gb10.margins]\nmean_ttft_ms = 0.2\n")
    status, _ = compare(*arguments, "--perfgate-config", "other.toml", capsys=capsys)
    assert status == 3
    status, shown = compare(*arguments, "--perfgate-config", "none.toml", capsys=capsys)
    assert status == 2
    assert "none.toml: no such file" in shown.err


def test_a_noise_model_of_other_hardware_is_not_used(files, capsys):
    """As in the suite: the model of another card lends nothing, and the verdict says so."""
    other = Fingerprint(gpu_name="NVIDIA GB10", gpu_count=2)
    status, shown = compare(
        files.result(100, 101, machine=other, name="old"),
        files.result(130, 131, machine=other),
        *("--noise", files.noise(), "--verbose"),
        capsys=capsys,
    )
    assert status == 3
    assert "INCONCLUSIVE" in shown.out
    assert "noise model is of other hardware" in " ".join(shown.out.split())


def test_the_results_of_an_ab_are_judged_again(files, capsys):
    """Given twice with --interleaved, a session's A/B is judged by its own two sides, not by the screen before it."""
    screen, old, new = (
        SessionResults.model_validate_json(Path(files.result(*ttft, name=name)).read_text())
        for name, ttft in (
            ("screen", (100, 100, 100)),
            ("old", (100, 101, 99, 100, 100)),
            ("new", (120, 121, 119, 120, 121)),
        )
    )
    sides = (
        *screen.measurements,
        *(one.model_copy(update={"side": "old"}) for one in old.measurements),
        *new.measurements,
    )
    write_file(files.folder / "ab.json", screen.model_copy(update={"measurements": sides}))
    status, shown = compare("ab.json", "ab.json", "--interleaved", "--noise", files.noise(), capsys=capsys)
    assert status == 1
    assert "+20" in shown.out
