"""`python -m analysis results`: what is kept of a finished run."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

import analysis
from analysis.__main__ import main
from analysis.export.results import Time, keep
from analysis.merging.pieces import MERGED
from analysis.tables.index import write_index
from analysis.tables.parquet import read_bytes, to_table, write_table
from analysis.tables.run_plan import read_content, write_content
from lth_trainable.errors import UserError
from lth_trainable.store.store import Store
from tests.support.trained import DENSE, TICKET, train_ticket_and_dense


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = train_ticket_and_dense(tmp_path_factory.mktemp("runs"))
    analysis.gather(folder)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_kept_reads_as_a_run_and_has_the_same_bytes_again(run: Path, tmp_path: Path) -> None:
    kept = keep(str(run), tmp_path / "a", Time(seconds=12.34))
    assert kept.path == tmp_path / "a" / "run" and content(kept.path) == content(
        keep(str(run), tmp_path / "b", Time(seconds=12.34)).path
    )
    ours, theirs = analysis.load(kept.path), analysis.load(run)
    assert ours.tables["trials"].equals(theirs.tables["trials"])
    assert ours.tables["verdicts"].equals(theirs.tables["verdicts"])
    machine = json.loads((kept.path / "machine.json").read_text())
    assert (machine["trials"], machine["trials_done"], machine["seconds"], machine["gpus"]) == (2, 2, 12.3, 0)
    assert machine["epochs_asked_for"] == TICKET.epochs_alone() + DENSE.epochs == 4 + 2
    assert machine["gpu_hours"] == 0 and machine["devices"][0].startswith("cpu")


def test_its_archive_is_the_run_without_masks_and_weights(run: Path, tmp_path: Path) -> None:
    kept = keep(str(run), tmp_path / "kept")
    with tarfile.open(kept.path / str(kept.machine["archive"])) as archive:
        names = set(archive.getnames())
        archive.extractall(tmp_path / "again", filter="data")
    assert f"run/trials/{TICKET.name}/record.json" in names
    assert not any(name.endswith((".safetensors", ".html")) for name in names)
    again, before = analysis.gather(tmp_path / "again" / "run"), analysis.load(run)
    assert dict(again.tables) == dict(before.tables)
    assert len(again.overlaps) + len(again.signs) > 0, "tables of masks and weights are in it"


def test_an_archive_of_an_older_version_keeps_its_tables_of_masks_and_weights(run: Path, tmp_path: Path) -> None:
    kept = keep(str(run), tmp_path / "kept")
    with tarfile.open(kept.path / str(kept.machine["archive"])) as archive:
        archive.extractall(tmp_path / "again", filter="data")
    store = Store(tmp_path / "again")
    tables = {name: to_table(read_bytes(store, "run", name)) for name in ("trials", "signs")}
    tables["trials"] = tables["trials"].drop_columns(["replicas"]).replace_schema_metadata({"of": "an older version"})
    sums = {name: write_table(store, "run", name, table) for name, table in tables.items()}
    write_index(store, "run", sums, {}, "auto")
    again, before = analysis.gather(tmp_path / "again" / "run"), analysis.load(run)
    assert dict(again.tables) == dict(before.tables)
    assert len(again.overlaps) + len(again.signs) > 0
    after = analysis.gather(tmp_path / "again" / "run", geometry="auto")
    assert after.tables["signs"].equals(before.tables["signs"]), "and the gather after it keeps them too"


def test_an_inherited_epoch_is_kept_once(run: Path, tmp_path: Path) -> None:
    epochs = analysis.load(keep(str(run), tmp_path).path).epochs
    assert (epochs["trial"] == epochs["trained_by"]).all()
    whole = analysis.load(run).epochs
    assert len(epochs) == len(whole[["trained_by", "level", "epoch"]].drop_duplicates()) < len(whole)


def test_a_large_archive_is_left_out(run: Path, tmp_path: Path) -> None:
    kept = keep(str(run), tmp_path, most_bytes=100)
    assert not list(kept.path.glob("*.tar.xz")) and kept.machine["archive"].startswith("left out: ")


def test_commands_are_kept_without_places(run: Path, tmp_path: Path) -> None:
    kept = keep(str(run), tmp_path)
    with tarfile.open(kept.path / str(kept.machine["archive"])) as archive:
        packed = archive.extractfile("run/plan.json")
        assert packed is not None
        texts = [(kept.path / "plan.json").read_text(), packed.read().decode()]
    assert texts[0] == texts[1] and str(run.parent) not in texts[0]


def test_a_merged_run_does_not_say_where_its_pieces_were(run: Path, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    folder = train_ticket_and_dense(storage)
    pieces = [{"run": str(tmp_path / "pieces" / name / "run"), "versions": {}} for name in ("one", "two")]
    write_content(Store(storage), "run", {**read_content(Store(storage), "run"), MERGED: pieces})
    analysis.gather(folder)
    plan = json.loads((keep(str(folder), tmp_path / "kept").path / "plan.json").read_text())
    assert [piece["run"] for piece in plan[MERGED]] == ["run", "run"] and str(tmp_path) not in json.dumps(plan)


def test_pieces_of_one_name_are_told_apart_in_the_command_that_merged_them(run: Path, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    folder = train_ticket_and_dense(storage)
    typed = ["python", "-m", "analysis", "merge", *(f"/machine/{name}/run" for name in "ab"), "--into", "/machine/run"]
    sweeps = [["python", "-m", "sweeps.lth_grid", "digits", "--max-hours", hours] for hours in ("0.1", "0.2")]
    write_content(Store(storage), "run", {**read_content(Store(storage), "run"), "commands": [*sweeps, typed]})
    analysis.gather(folder)
    assert keep(str(folder), tmp_path / "kept").machine["commands"] == [
        "python -m sweeps.lth_grid digits", "python -m analysis merge 1/run 2/run --into run",
    ]  # fmt: skip


def test_kept_results_are_neither_gathered_nor_kept_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["results", str(run), "--out", str(tmp_path)]) == 0
    assert "2 of 2 trials done" in capsys.readouterr().out
    before = content(tmp_path / "run")
    for arguments in ([str(tmp_path / "run")], ["results", str(tmp_path / "run"), "--out", str(tmp_path / "x")]):
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert "expected the folder of a run" in err and err.count("\n") == 1
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("with_index", [True, False])
def test_a_damaged_table_of_kept_results_is_one_clear_error(
    run: Path, tmp_path: Path, with_index: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = keep(str(run), tmp_path).path
    table = kept / "analysis" / "trials.parquet"
    table.write_bytes(table.read_bytes()[:100])
    if not with_index:
        (kept / "analysis" / "index.json").unlink()
    assert main(["table", str(kept)]) == 2
    err = capsys.readouterr().err
    assert "analysis/trials.parquet" in err and "unpack run.tar.xz elsewhere and gather that" in err
    assert err.count("\n") == 1


def test_figures_of_kept_results_say_that_shared_epochs_are_there_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = keep(str(run), tmp_path / "kept").path
    for path, is_told in ((run, False), (kept, True)):
        assert main(["figures", str(path), "--out", str(tmp_path / "figures")]) == 0
        assert ("epochs that trials share only once" in " ".join(capsys.readouterr().err.split())) == is_told


@pytest.mark.parametrize("command", ["pack", "supermasks", "barrier"])
def test_commands_that_need_weights_or_records_say_that_kept_results_have_none(
    run: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keep(str(run), tmp_path / "results")
    before = content(tmp_path)
    assert main([command, "results/run"]) == 2
    err = capsys.readouterr().err
    assert "found kept results" in err and "expected the folder of" in err and err.count("\n") == 1
    assert content(tmp_path) == before


def test_a_run_is_never_replaced_by_its_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_ticket_and_dense(tmp_path / "runs")
    analysis.gather(folder)
    before = content(folder)
    monkeypatch.chdir(tmp_path)
    for out in ("runs", str(tmp_path / "runs")):
        assert main(["results", "runs/run", "--out", out]) == 2
        err = capsys.readouterr().err
        assert f"--out {out}: found {out}/run, which has no machine.json" in err and err.count("\n") == 1
    assert content(folder) == before


def test_only_earlier_results_are_replaced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine" / "run").mkdir(parents=True)
    (tmp_path / "mine" / "run" / "notes.txt").write_text("of a person")
    (tmp_path / "file").write_text("no folder")
    for out in (tmp_path / "mine", tmp_path / "file"):
        assert main(["results", str(run), "--out", str(out)]) == 2
        assert capsys.readouterr().err.startswith(f"error: --out {out}: ")
    assert content(tmp_path) == {"mine/run/notes.txt": b"of a person", "file": b"no folder"}
    (tmp_path / "empty" / "run").mkdir(parents=True)
    assert keep(str(run), tmp_path / "empty").path == tmp_path / "empty" / "run"


def test_earlier_results_stay_if_new_ones_cannot_be_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = keep(str(run), tmp_path).path
    before = content(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(UserError, match=r"cannot be written .*No space left.*choose another place"):
        keep(str(run), tmp_path)
    assert content(tmp_path) == before and analysis.load(kept)


def test_an_unfinished_run_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = tmp_path / "runs"
    folder = train_ticket_and_dense(storage)
    (folder / "trials" / TICKET.name / "manifest.json").unlink()
    analysis.gather(folder)
    assert main(["results", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "found 1 trials that are not done" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--seconds", "--gpus"])
def test_times_are_positive(run: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(run), flag, "0"]) == 2 and "more than 0" in capsys.readouterr().err
