"""Runs made in pieces become one run, with the bytes and verdicts of the run made whole; really trained on digits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis.__main__ import main
from analysis.merging.merge import merge
from analysis.tables.exclusions import change_exclusions, read_exclusions
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.store.trials import load_trial
from sweeps.experiments.expand import of_specs
from sweeps.planning.plan import Facts
from sweeps.runs.ledger import Ledger
from sweeps.storage import check
from tests.support.crash_points import left_by_kills
from tests.support.runs import plan_of, sweep
from tests.support.s3 import s3_server, storage

JUDGED = ("verdicts", "variances", "published", "overlaps", "signs")


def trials(seeds: Sequence[int], targets: Sequence[float] = (40.0, 64.0)) -> list[TrialSpec]:
    """In the order in which a sweep plans them."""
    return list(
        of_specs(
            [
                TrialSpec(epochs=1, seed=seed, **fields)
                for seed in seeds
                for fields in ({"control": "dense"}, *({"target_sparsity_pct": pct} for pct in targets))
            ]
        ).trials
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storages with a run each: whole, by seeds (first, last), by tickets (mild, sparse), small (one, two)."""
    root = tmp_path_factory.mktemp("pieces")
    pieces = {
        "whole": trials(range(5)), "first": trials(range(3)), "last": trials((3, 4)),
        "mild": trials(range(5), (40.0,)), "sparse": trials(range(5), (64.0,)),
        "one": trials((0,), (40.0,)), "two": trials((1,), (40.0,)),
    }  # fmt: skip
    for name, specs in pieces.items():
        sweep(Store(root / name), "run", specs)
    analysis.gather(root / "whole" / "run")
    return root


def tables_of(run: Path) -> dict[str, bytes]:
    return {name: (run / "analysis" / f"{name}.parquet").read_bytes() for name in JUDGED}


def sums_of(run: Path) -> dict[str, Any]:
    """Hashes of weights, masks and metrics of each trial."""
    return {path.parent.name: json.loads(path.read_text())["sha256"] for path in run.glob("trials/*/record.json")}


def files_of(folder: Path, below: str = "*") -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(below) if path.is_file()}


def runs(made: Path, *names: str) -> list[str]:
    return [str(made / name / "run") for name in names]


# -- the same as the whole ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(
    "names", [("first", "last"), ("last", "first"), ("mild", "sparse")], ids=["seeds", "other-order", "tickets"]
)
def test_pieces_have_the_bytes_and_verdicts_of_the_whole(made: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    before = {name: files_of(made / name) for name in names}
    done = merge(runs(made, *names), str(tmp_path / "run"))
    assert (done.n_trials, done.notes) == (15, ())
    analysis.gather(tmp_path / "run")
    whole, merged = made / "whole" / "run", tmp_path / "run"
    assert sums_of(merged) == sums_of(whole)
    assert tables_of(merged) == tables_of(whole)
    clocks = ["train_seconds", "seconds_total", "epochs_trained", "run"]
    rows = [analysis.load(run).trials.drop(columns=clocks) for run in (merged, whole)]
    assert rows[0].equals(rows[1]), "the order of the trials too"
    assert [list(frame["trial"]) for frame in rows] == [[spec.name for spec in trials(range(5))]] * 2
    for kind in ("weights*", "masks*"):
        assert files_of(tmp_path / "states", kind) == files_of(made / "whole" / "states", kind)
    assert {name: files_of(made / name) for name in names} == before, "the pieces stay as they are"


def test_every_file_of_a_trial_is_copied_as_it_was(made: Path, tmp_path: Path) -> None:
    merge(runs(made, "first", "last"), str(tmp_path / "run"))
    for piece in ("first", "last"):
        of_piece = files_of(made / piece / "run" / "trials") | files_of(made / piece / "states")
        found = files_of(tmp_path / "run" / "trials") | files_of(tmp_path / "states")
        assert of_piece.items() <= found.items()
    assert check(Store(tmp_path))["damaged"] == []
    assert load_trial(tmp_path / "run" / "trials" / trials((4,))[0].name) is not None


def test_a_sweep_goes_on_from_the_merged_run(made: Path, tmp_path: Path) -> None:
    merge(runs(made, "first", "last"), str(tmp_path / "run"))
    plan = plan_of(trials(range(5)))
    ledger = Ledger(store=Store(tmp_path), run="run", plan=plan, facts={("digits", 0): Facts(digest="d", n_train=1150)})
    stock = ledger.take_stock(repair=False)
    assert len(stock.done) == 15 and stock.reports == ()
    (fingerprint,) = {repr(folder.manifest["fingerprint"]): folder.manifest for folder in stock.done.values()}.values()
    stored, reports = ledger.stored(fingerprint["fingerprint"], repair=False)
    assert reports == [] and {trial.chain[-1].key for trial in plan.trials} <= stored


def test_the_plan_says_what_it_was_made_of(made: Path, tmp_path: Path) -> None:
    merge(runs(made, "first", "last"), str(tmp_path / "run"))
    content = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert [piece["run"] for piece in content["merged"]] == runs(made, "first", "last")
    assert content["commands"][-1][:5] == ["python", "-m", "analysis", "merge", runs(made, "first")[0]]
    assert (content["margin_pp"], content["alpha"], content["recipe"]) == (0.5, 0.05, "digits")


# -- again, and after a kill -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_report")
def test_the_same_command_again_changes_nothing_and_more_pieces_are_added(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "last", tmp_path / "last")
    late = tmp_path / "last" / "run" / "trials" / trials((4,))[0].name
    late.rename(tmp_path / "kept")
    pieces = [*runs(made, "first"), str(tmp_path / "last" / "run")]
    assert merge(pieces, str(tmp_path / "merged" / "run")).n_trials == 14
    before = files_of(tmp_path / "merged")
    again = merge(pieces, str(tmp_path / "merged" / "run"))
    assert (again.n_trials, again.n_states, files_of(tmp_path / "merged")) == (0, 0, before)
    (tmp_path / "kept").rename(late)
    assert merge(pieces, str(tmp_path / "merged" / "run")).n_trials == 1
    analysis.gather(tmp_path / "merged" / "run")
    assert tables_of(tmp_path / "merged" / "run") == tables_of(made / "whole" / "run")


def test_a_merge_that_is_killed_at_any_moment_is_made_good_by_the_next(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are copied one after another here: steps are watched in one thread."""
    monkeypatch.setattr("analysis.merging.merge.map_in_threads", lambda function, items: [function(i) for i in items])
    root = tmp_path / "again"
    (tmp_path / "first").mkdir()
    pieces = runs(made, "one", "two")
    lefts = left_by_kills(tmp_path / "first", lambda: merge(pieces, str(tmp_path / "first" / "run")), halves=False)
    expected = sums_of(tmp_path / "first" / "run")
    assert len(lefts) > 40 and len(expected) == 4
    for left in [*lefts[:4], *lefts[4::7], lefts[-1]]:
        left.restore(root)
        whole = sums_of(root / "run").items()
        assert whole <= expected.items(), left.after
        merge(pieces, str(root / "run"))
        assert sums_of(root / "run") == expected, left.after
        assert check(Store(root))["damaged"] == [], left.after


@pytest.mark.slow
def test_pieces_in_s3_become_a_run_in_s3(made: Path, tmp_path: Path) -> None:
    with s3_server() as server:
        into = storage(server, "all/run")
        assert merge(runs(made, "first", "last"), into).n_trials == 15
        assert merge(runs(made, "first", "last"), into).n_trials == 0
        analysis.gather(into)
        back = merge([into, *runs(made, "first")], str(tmp_path / "run"))
        assert back.n_trials == 15
    analysis.gather(tmp_path / "run")
    assert tables_of(tmp_path / "run") == tables_of(made / "whole" / "run")


# -- trials that both have ---------------------------------------------------------------------------------------------


def changed(made: Path, to: Path, name: str, change: Any) -> str:
    """A copy of a piece in which the records of the trials with seed 0 are others, with right checksums."""
    shutil.copytree(made / name, to)
    store = Store(to)
    for spec in trials((0,), (40.0,)):
        folder = store.find(store.trial("run", spec.name))
        assert folder is not None
        record = json.loads(store.content(folder, "record.json"))
        files = {n: store.content(folder, n) for n in folder.manifest["files"]}
        about = {k: v for k, v in folder.manifest.items() if k not in ("files", "format", "sha256")}
        content = (json.dumps(change(record), indent=1) + "\n").encode()
        store.seal(folder.path, {**files, "record.json": content}, about)
    return str(to / "run")


def test_trials_with_other_bytes_are_refused_and_named(made: Path, tmp_path: Path) -> None:
    def other(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "sha256": {**record["sha256"], "weights": "0" * 64}}

    odd = changed(made, tmp_path / "odd", "first", other)
    with pytest.raises(UserError) as error:
        merge([*runs(made, "whole"), odd], str(tmp_path / "merged" / "run"))
    assert f"{odd}: found 2 trials with other bytes than in {runs(made, 'whole')[0]}" in str(error.value)
    assert trials((0,))[-1].name in str(error.value)
    assert not (tmp_path / "merged").exists(), "nothing is written"


def test_other_clocks_are_no_other_bytes(made: Path, tmp_path: Path) -> None:
    slow = changed(made, tmp_path / "slow", "first", lambda record: {**record, "train_seconds": 99.0})
    assert merge([slow, *runs(made, "whole")], str(tmp_path / "merged" / "run")).notes == ()
    name = trials((0,), ())[0].name
    assert (
        json.loads((tmp_path / "merged" / "run" / "trials" / name / "record.json").read_text())["train_seconds"] == 99
    )


def test_a_state_with_other_bytes_that_a_trial_refers_to_is_refused(made: Path, tmp_path: Path) -> None:
    """Kernels that do not repeat bytes: a dense network is trained in both pieces, but recorded in the first only."""
    shutil.copytree(made / "sparse", tmp_path / "sparse")
    store = Store(tmp_path / "sparse")
    for spec in trials(range(5), ()):
        shutil.rmtree(tmp_path / "sparse" / "run" / "trials" / spec.name)
    ticket = store.find(store.trial("run", trials((0,), (64.0,))[0].name))
    assert ticket is not None
    initial = store.find(ticket.manifest["states"]["initial"])
    assert initial is not None
    files = {name: store.content(initial, name) for name in initial.manifest["files"]}
    about = {k: v for k, v in initial.manifest.items() if k not in ("files", "format", "sha256")}
    store.seal_shared(initial.path, {**files, "weights.safetensors": files["weights.safetensors"] + b" "}, about)
    with pytest.raises(UserError, match=r"other bytes than another storage has there.*take each seed from one machine"):
        merge([*runs(made, "mild"), str(tmp_path / "sparse" / "run")], str(tmp_path / "merged" / "run"))


def test_a_damaged_trial_is_taken_from_another_piece_or_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "first", tmp_path / "first")
    name = trials((0,))[0].name
    (tmp_path / "first" / "run" / "trials" / name / "record.json").write_text("{}")
    broken = str(tmp_path / "first" / "run")
    with pytest.raises(UserError, match=rf"^damaged: {name} .*run the command of that sweep again"):
        merge([broken, *runs(made, "last")], str(tmp_path / "merged" / "run"))
    assert merge([broken, *runs(made, "whole")], str(tmp_path / "merged" / "run")).n_trials == 15
    sound = Store(tmp_path / "first").find(f"run/trials/{trials((1,))[0].name}")
    assert sound is not None
    shutil.rmtree(tmp_path / "first" / sound.manifest["states"]["final"])
    with pytest.raises(UserError, match=r"it is missing; .* refers to it"):
        merge([broken, *runs(made, "whole")], str(tmp_path / "other" / "run"))


@pytest.mark.usefixtures("without_report")
def test_failed_and_excluded_trials_are_so_in_the_merged_run(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "first", tmp_path / "first")
    piece, failed, excluded = tmp_path / "first" / "run", trials((0,))[0].name, trials((1,))[0].name
    shutil.rmtree(piece / "trials" / failed)
    (piece / "trials" / failed).mkdir()
    (piece / "trials" / failed / "failure.json").write_text('{"reason": "out of memory"}')
    change_exclusions(piece, exclude=[excluded], reason="the disk was full")
    done = merge([str(piece), *runs(made, "last")], str(tmp_path / "merged" / "run"))
    assert done.notes == ("1 trial failed in the pieces, and so in the merged run",)
    rows = {row["trial"]: row for row in analysis.gather(tmp_path / "merged" / "run").rows("trials")}
    assert (rows[failed]["status"], rows[failed]["reason"]) == ("failed", "out of memory")
    assert (rows[excluded]["status"], rows[excluded]["reason"]) == ("excluded", "the disk was full")
    done = merge([str(piece), *runs(made, "whole")], str(tmp_path / "merged" / "run"))
    assert f"{excluded} is excluded, though not in {runs(made, 'whole')[0]}" in done.notes
    rows = {row["trial"]: row for row in analysis.gather(tmp_path / "merged" / "run").rows("trials")}
    assert rows[failed]["status"] == "done", "another piece has it"
    assert read_exclusions(Store(tmp_path / "merged"), "run").keys() == {excluded}


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_merges_judges_and_prints(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = str(tmp_path / "run")
    assert main(["merge", *runs(made, "first", "last"), "--into", into]) == 0
    text = capsys.readouterr().out
    assert "merged 2 runs: 15 trials and" in text and f"{into}/report.html" in text
    assert main(["merge", *runs(made, "first", "last"), "--into", into, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["merged"] == {"trials": 0, "states": 0, "notes": []} and found["trials"]["done"] == 15
    assert tables_of(tmp_path / "run") == tables_of(made / "whole" / "run")


def test_a_run_may_be_merged_into_the_storage_of_a_piece(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "first", tmp_path / "s")
    done = merge([str(tmp_path / "s" / "run"), *runs(made, "last")], str(tmp_path / "s" / "both"))
    assert done.n_trials == 15 and len(sums_of(tmp_path / "s" / "both")) == 15
    assert check(Store(tmp_path / "s"))["damaged"] == []
