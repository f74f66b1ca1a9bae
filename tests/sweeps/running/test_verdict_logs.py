"""Verdicts and chosen tickets in MLflow and Weights & Biases: all there, once, and no harm if they cannot be."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis.export.choice import choose
from analysis.tables.parquet import Frames
from lth_trainable.store.store import Store
from sweeps.running.conclusion import Conclusion
from sweeps.running.log_feed import Loggers
from sweeps.running.logger_thread import LoggerThread
from sweeps.running.loggers import LogFolder, Logger
from sweeps.running.verdict_loggers import LONGEST, plain_name
from tests.support.curves import RECORD, SPEC
from tests.support.records import DIGITS, digits_like, make_run, paired
from tests.support.trained import DENSE, TICKET, train_ticket_and_dense
from tests.support.wandb_files import wandb_records

ANSWER = "Undecided: the only comparison with the dense network is not decided (needs at least 5 seeds, has 1)"
NAME = "digits-lenet_300_100-imp-s64-r1-e2 vs dense-e2"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_ticket_and_dense(tmp_path_factory.mktemp("trained"))


def conclusion_of(run: Path, wanted: Sequence[str], frames: Frames | None = None) -> Conclusion:
    return Conclusion.of(Store(run.parent), run.name, frames or analysis.gather(run), wanted)


def log(name: str, run: Path, wanted: Sequence[str]) -> list[str]:
    """Log the verdicts as a command does at its end; returns its notes."""
    with Loggers.open([name], Store(run.parent), run.name).running() as loggers:
        assert loggers.conclude(lambda: conclusion_of(run, wanted)) is None
    return loggers.notes


def sha256_of_ticket(run: Path) -> str:
    record = json.loads((run / "trials" / TICKET.name / "record.json").read_text())
    return str(record["sha256"]["weights"])


# -- MLflow ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mlflow_has_verdicts_table_and_tickets_once_however_often_the_command_is_typed(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="for the extra mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    for wanted in ([TICKET.name], [TICKET.name, DENSE.name]):
        assert log("mlflow", trained, wanted) == []
    client = mlflow.MlflowClient(f"sqlite:///{trained.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("run")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run verdicts", "FINISHED")
    assert run.data.tags["answer"].startswith(ANSWER) and run.data.tags[f"verdict/{NAME}"] == "undecided"
    assert run.data.tags["tickets"] == f"{TICKET.name}, {DENSE.name}"
    assert run.data.metrics["n_undecided"] == 1 and run.data.metrics["n_matches"] == 0
    assert run.data.metrics[f"{NAME}/sparsity_pct"] == pytest.approx(64, abs=0.01)
    for name in run.data.metrics:
        assert len(client.get_metric_history(run.info.run_id, name)) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)  # which this function reads
    table = client.load_table(experiment.experiment_id, "verdicts.json")
    assert len(table) == 1 and table.verdict[0] == "undecided" and table.ladder[0].endswith("imp-r1-e2")
    files = {path.relative_to(trained / "mlflow").as_posix() for path in (trained / "mlflow").rglob("*")}
    ours = f"{run.info.run_id}/artifacts/tickets/{TICKET.name}"
    assert {f"{ours}/{name}" for name in ("README.md", "model.safetensors", "masks.safetensors")} <= files
    weights = (trained / "mlflow" / ours / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == sha256_of_ticket(trained)
    assert list(tmp_path.iterdir()) == [], "nothing in the working folder"


def artifact_of(record: Any) -> Any:
    is_sent = record.WhichOneof("record_type") == "artifact"
    return record.artifact if is_sent else record.request.log_artifact.artifact


# -- Weights & Biases --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_wandb_has_verdicts_table_and_tickets_once_however_often_the_command_is_typed(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason="for the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    ids = set()
    for _ in range(2):
        assert log("wandb", trained, [TICKET.name]) == []
        [file] = (trained / "wandb" / "verdicts").glob("wandb/offline-run-*/run-*.wandb")
        records = list(wandb_records(file))
        [run] = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        assert (run.project, run.display_name, run.job_type) == ("run", "run verdicts", "verdicts")
        ids.add(run.run_id)
    assert len(ids) == 1, "the same run on the server"
    summary: dict[str, Any] = {}
    for record in records:
        for item in record.summary.update:
            summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert summary["answer"].startswith(ANSWER) and summary[f"{NAME}/verdict"] == "undecided"
    assert summary["n_undecided"] == 1 and summary["tickets"] == [TICKET.name]
    table = json.loads((file.parent / "files" / summary["verdicts"]["path"]).read_text())
    assert table["columns"][0] == "ladder" and len(table["data"]) == 1
    [artifact] = [found for found in map(artifact_of, records) if found.type == "model"]
    entries = {entry.path: entry for entry in artifact.manifest.contents}
    assert artifact.name == TICKET.name and {"README.md", "model.safetensors", "masks.safetensors"} <= set(entries)
    about = json.loads(artifact.metadata)
    assert about["trial"] == TICKET.name and about[NAME] == "undecided"
    staged = Path(entries["model.safetensors"].local_path)
    assert hashlib.sha256(staged.read_bytes()).hexdigest() == sha256_of_ticket(trained)


# -- which tickets -----------------------------------------------------------------------------------------------------


def test_matching_are_the_sparsest_that_match_of_each_rewind_point(tmp_path: Path) -> None:
    frames = analysis.gather(make_run(tmp_path, digits_like(), DIGITS))
    found = choose(frames.rows("trials"), frames.rows("verdicts"), ["matching"])
    assert found.trials == tuple(f"digits-lenet_300_100-imp-s87.04-r{k}-seed0" for k in (0, 1))
    conclusion = conclusion_of(tmp_path / "run", ["matching"], frames)
    assert (
        conclusion.choice == found and sum(n for name, n in conclusion.numbers().items() if name.startswith("n_")) == 6
    )
    assert set(conclusion.about(found.trials[0]).values()) >= {found.trials[0], found.why}


def test_where_none_matches_there_is_none_to_log(tmp_path: Path) -> None:
    worse = paired(96, {64: (-9, -8, -9, -7, -8), 87.04: (-9,) * 5, 92.22: (-9,) * 5})
    frames = analysis.gather(make_run(tmp_path, digits_like(), worse))
    found = conclusion_of(tmp_path / "run", ["matching"], frames)
    assert found.choice.trials == () and found.choice.why == "no ticket was shown to match the dense network"


def test_the_identity_is_that_of_the_run_in_its_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = analysis.gather(make_run(tmp_path, digits_like(), DIGITS))
    monkeypatch.chdir(tmp_path.parent)
    here = Conclusion.of(Store(tmp_path), "run", frames).identity
    assert here == Conclusion.of(Store(os.path.relpath(tmp_path)), "run", frames).identity
    assert here != Conclusion.of(Store(tmp_path), "other", frames).identity


def test_names_are_those_that_trackers_take() -> None:
    assert plain_name("a-b_c.d vs dense:e2#") == "a-b_c.d vs dense-e2-"
    one, other = plain_name("a" * 300), plain_name("a" * 299 + "b")
    assert len(one) == LONGEST and one != other


# -- what fails --------------------------------------------------------------------------------------------------------


class Judge:
    """A logger that takes verdicts. fails: whether it fails at them."""

    def __init__(self, fails: bool = False) -> None:
        self.heard: list[str] = []
        self.fails = fails

    def setup(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda **_: self.heard.append(name)
        raise AttributeError(name)

    def log_verdicts(self, conclusion: Conclusion) -> Iterator[None]:
        self.heard.append(conclusion.run)
        yield
        if self.fails:
            raise ConnectionError("the server is gone")


def run_judge(judge: Any, conclude: Any, tmp_path: Path) -> tuple[Loggers, str | None]:
    thread = LoggerThread("judge", Logger(callback=judge, watch=""), LogFolder(Store(tmp_path), "run"))
    with Loggers([thread]).running() as loggers:
        loggers.recorded(SPEC, RECORD)
        said = loggers.conclude(conclude)
    return loggers, said


def test_verdicts_come_after_the_last_trial_and_one_that_fails_is_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, digits_like(), DIGITS)
    judge = Judge()
    loggers, said = run_judge(judge, lambda: conclusion_of(run, ["matching"]), tmp_path)
    assert said is None and loggers.notes == [] and judge.heard[-3:] == ["on_step_end", "run", "on_experiment_end"]
    loggers, said = run_judge(Judge(fails=True), lambda: conclusion_of(run, ["matching"]), tmp_path)
    reason = "judge: the table of verdicts is incomplete there (ConnectionError: the server is gone)"
    assert said is None and loggers.notes == [f"{reason}; the run itself has everything"]
    assert f"note: {reason}; the sweep continues\n" in capsys.readouterr().err


def test_a_ticket_that_is_not_there_is_a_note(tmp_path: Path) -> None:
    run = make_run(tmp_path, digits_like(), DIGITS)
    judge = Judge()
    loggers, said = run_judge(judge, lambda: conclusion_of(run, ["no-such-ticket"]), tmp_path)
    assert said is not None and said.startswith("the verdicts are not logged (--log-tickets: found 'no-such-ticket'")
    assert loggers.notes == [] and "run" not in judge.heard


def test_a_logger_without_verdicts_is_not_asked(tmp_path: Path) -> None:
    class Plain(Judge):
        log_verdicts = property()  # type: ignore[assignment]

    asked: list[str] = []
    _, said = run_judge(Plain(), lambda: asked.append("asked"), tmp_path)
    assert said is None and asked == []
