"""`python -m analysis export ... --hub FOLDER`: a folder for the Hub, whose card and files stand alone."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from safetensors.torch import load_file, save_file

from analysis.__main__ import main
from analysis.export.hub import OURS, _facts, _images, export_to_hub
from analysis.export.hub_card import model_card
from analysis.export.hub_facts import without_places
from analysis.export.tickets import read_or_refuse
from lth_trainable.data.datasets import load_dataset
from lth_trainable.store.store import FAILURE, MANIFEST, RECORD, Store
from lth_trainable.store.trials import load_trial
from lth_trainable.tickets.formats import read_foreign
from tests.support.fake_hub import TOKEN, FakeHub, fake_hub
from tests.support.tickets import DIGEST
from tests.support.trained import DENSE, TICKET

ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
"""
IMPORTED = {
    "ticket": DIGEST,
    "data_key": TICKET.data_key,
    "dataset": "digits",
    "model": TICKET.model,
    "control": "none",
}
OTHERS = ("lth_trainable", "analysis", "sweeps", "fastai", "ray", "torchvision", "timm", "huggingface_hub")


def code_of(folder: Path) -> list[str]:
    """The Python of a card, block by block."""
    tokens = MarkdownIt().parse(ModelCard.load(folder / "README.md").text)
    return [token.content for token in tokens if token.type == "fence" and token.info == "python"]


def alone(folder: Path, code: str, others: Sequence[str] = OTHERS) -> str:
    """What the code prints in a process that cannot import `others`, in a copy of the folder."""
    command = [sys.executable, "-c", ALONE.format(names=set(others)) + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "ticket"
    assert export_to_hub([str(trained), TICKET.name], folder).notes == ()
    return folder


def test_the_card_s_code_gives_the_recorded_accuracy_with_torch_and_safetensors_alone(
    exported: Path, trained: Path, tmp_path: Path
) -> None:
    data = load_dataset("digits")
    pixels = torch.from_numpy(data.test.x).double() * data.pixels.std.item() + data.pixels.mean.item()
    save_file(
        {"pixels": (pixels * data.pixels.scale).round().byte(), "y": torch.from_numpy(data.test.y)}, tmp_path / "t"
    )
    use = code_of(exported)[0]
    measure = (
        f"\nfrom safetensors.torch import load_file\ntest = load_file({str(tmp_path / 't')!r})\n"
        "right = network(prepare(test['pixels'])).argmax(1) == test['y']\n"
        "print(int(right.sum()) / len(right), sum(int((~mask).sum()) for mask in kept.values()))"
    )
    record = json.loads((trained / "trials" / TICKET.name / RECORD).read_text())
    accuracy, zeros = alone(exported, use + measure).split()
    assert float(accuracy) == record["result"]["test_accuracy"]
    assert int(zeros) == record["result"]["n_weights"] - record["result"]["n_kept"]


def test_the_card_s_other_code_measures_and_trains_the_same_network(
    exported: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    monkeypatch.chdir(copy)
    monkeypatch.syspath_prepend(copy)
    monkeypatch.delitem(sys.modules, "model", raising=False)
    names: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for block in code_of(copy):
            exec(block, names)
    monkeypatch.delitem(sys.modules, "model")
    measured, repeated = said.getvalue().splitlines()
    record = json.loads((trained / "trials" / TICKET.name / RECORD).read_text())
    assert float(measured) == record["result"]["test_accuracy"] and repeated == "True True"
    start, rewind = names["start"].state_dict(), load_trial(trained / "trials" / TICKET.name, "rewind").state_dict()
    assert all(torch.equal(start[name], tensor) for name, tensor in rewind.items())


def test_files_are_plain_and_those_of_the_record(exported: Path, trained: Path) -> None:
    record = json.loads((trained / "trials" / TICKET.name / RECORD).read_text())
    assert {path.name for path in exported.iterdir()} == set(OURS)
    kept, final = load_file(exported / "masks.safetensors"), load_file(exported / "model.safetensors")
    assert all(mask.dtype == torch.bool and not final[name][~mask].any() for name, mask in kept.items())
    config = json.loads((exported / "config.json").read_text())
    assert config["classes"] == list("0123456789") and config["shape"] == [1, 8, 8]
    assert config["n_kept"] == sum(int(mask.sum()) for mask in kept.values()) == record["result"]["n_kept"]
    text = (exported / "README.md").read_text()
    for shown in (
        record["key"],
        record["data"]["digest"],
        *record["sha256"].values(),
        f"torch {record['versions']['torch']}",
    ):
        assert shown in text


def test_the_card_has_the_verdict_and_metadata_that_the_hub_reads(exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    assert card.data.tags == ["lottery-ticket", "pruning", "sparsity"] and card.data.library_name == "pytorch"
    assert card.data.license is None and "Not chosen yet" in card.text
    [measured] = card.data.eval_results
    config = json.loads((exported / "config.json").read_text())
    assert (measured.metric_type, measured.metric_value) == ("accuracy", config["test_accuracy"])
    assert "**undecided** (against dense, 2 epochs)" in card.text and "95 % interval" in card.text
    assert "    python -m sweeps.lth_grid" in card.text


def test_an_imported_copy_is_the_ticket_that_was_exported(exported: Path) -> None:
    found = read_foreign(exported)
    rewind = load_file(exported / "rewind.safetensors")
    assert found.epoch == 1 and all(torch.equal(found.weights[name], tensor) for name, tensor in rewind.items())
    assert found.masks is not None and found.masks.keys() == load_file(exported / "masks.safetensors").keys()


def test_a_dense_network_is_no_ticket(trained: Path, tmp_path: Path) -> None:
    one = export_to_hub([str(trained), DENSE.name], tmp_path / "dense", license="mit")
    assert set(one.files) == set(OURS) - {"masks.safetensors", "rewind.safetensors"}
    card = ModelCard.load(tmp_path / "dense" / "README.md")
    assert card.data.license == "mit" and card.data.tags == ["lottery-ticket-dense-baseline"]
    assert "None: it is what tickets are compared with." in card.text
    alone(tmp_path / "dense", code_of(tmp_path / "dense")[0] + "\nassert not __import__('model').masks()")


def test_the_same_trial_gives_the_same_bytes_and_replaces_its_older_export(
    exported: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "again"
    for _ in range(2):
        assert main(["export", str(trained), TICKET.name, "--hub", str(folder), "--json"]) == 0
    [one] = json.loads(capsys.readouterr().out.splitlines()[-1])["exports"]
    assert set(one["files"]) == set(OURS) and one["url"] is None and one["notes"] == []
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in exported.iterdir()}
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()


def test_what_somebody_has_put_there_is_not_replaced(exported: Path, trained: Path, tmp_path: Path) -> None:
    run = [str(trained), TICKET.name]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    changed = shutil.copytree(exported, tmp_path / "changed")
    with (changed / "README.md").open("a") as card:
        card.write("My own words.\n")
    beside = shutil.copytree(exported, tmp_path / "beside")
    (beside / "LICENSE").write_text("mine")
    (tmp_path / "file").write_text("")
    for folder, message in (
        ("mine", "an empty folder, or an older export"), ("changed", "that was changed since"),
        ("beside", "LICENSE beside an older export"), ("file", "expected a folder"),
    ):  # fmt: skip
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=message):
            export_to_hub(run, tmp_path / folder)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", TICKET.name, DENSE.name, "--hub", "hub"], "--hub: found '2 trials'; expected one"),
        (["run", TICKET.name, "--hub", "hub", "--out", "out"], "--out: found it with --hub"),
        (["run", TICKET.name, "--hub", "."], "--hub: found '.'; expected the name of a folder"),
        (["run", TICKET.name, "--hub", "run/.."], "--hub: found 'run/..'; expected the name of a folder"),
        (["run", TICKET.name, "--license", "mit"], "--license: found it alone; expected --hub FOLDER"),
        (["run", TICKET.name, "--hub", "hub", "--private"], "--private: found it alone"),
        (["run", TICKET.name, "--push", "me/ticket"], "--push: found it alone; expected --hub FOLDER"),
        (["run", TICKET.name, "--hub", "hub", "--push", "ticket"], "--push: found 'ticket'; expected USER/NAME"),
        (["run", TICKET.name, "--hub", "hub", "--push", "me/a ticket"], "expected USER/NAME"),
        (["run", TICKET.name, "--hub", "hub", "--push", "me/ticket"], "--push: found no token of the Hub"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: Sequence[str], message: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (tmp_path / "run").symlink_to(trained)
    assert main(["export", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_missing_package_is_one_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("analysis.export.hub.PACKAGE", "no_such_package")
    assert main(["export", str(trained), TICKET.name, "--hub", str(tmp_path / "hub")]) == 2
    error = "error: --hub: found no package no_such_package; pip install 'lottery-sweep[hub]'\n"
    assert capsys.readouterr().err == error


def test_trials_without_a_network_are_refused_with_the_reason(trained: Path, tmp_path: Path, capsys: Any) -> None:
    run = shutil.copytree(trained.parent, tmp_path / "copy") / "run"
    folder = run / "trials" / TICKET.name
    state = json.loads((folder / MANIFEST).read_text())["states"]["final"]
    shutil.move(run.parent / state, tmp_path / "moved")
    hub = ["--hub", str(tmp_path / "hub")]
    assert main(["export", str(run), TICKET.name, *hub]) == 2
    assert "the final weights are missing); rerun the sweep's command" in capsys.readouterr().err
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / FAILURE).write_text('{"reason": "ValueError: no luck"}')
    for trial in ([str(run), TICKET.name], [str(folder)]):
        assert main(["export", *trial, *hub]) == 2
        err = capsys.readouterr().err
        assert "found a failed trial, which has no network (ValueError: no luck)" in err and err.count("\n") == 1
    assert not (tmp_path / "hub").exists()


def test_trials_that_their_fields_alone_do_not_give_again_say_so(trained: Path) -> None:
    store, run = Store(trained.parent), trained.name
    facts, _ = _facts(store, run, TICKET.name, read_or_refuse(store, run, TICKET.name), None, None)
    restored = {"from": "its-parent", "state": "a" * 64, "level": 1, "epochs": 2, "lineage": "b" * 64}
    cards = {
        "It went on from level 1 of the trial `its-parent`": replace(
            facts, about={**facts.about, "restored": restored}
        ),
        f"It starts from an imported ticket, `{DIGEST}`": replace(facts, spec=SimpleNamespace(**IMPORTED)),
        "It uses code of its author: criterion `my.module:best`": replace(
            facts, about={**facts.about, "spec": {**facts.about["spec"], "criterion": "my.module:best"}}
        ),
    }
    for said, changed in cards.items():
        text = model_card(changed)
        assert said in text and "run_trial(" not in text
    assert "run_trial(" in model_card(facts)


def test_nothing_is_downloaded_for_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastai.data.external.fastai_path", lambda *_: tmp_path)
    monkeypatch.setattr("fastai.data.external.untar_data", lambda *_: pytest.fail("downloads"))
    images, note = _images(replace(TICKET, dataset="mnist"), "a" * 64, None)
    assert images == {"pixels": None, "classes": None} and note.endswith("mnist is not here; --data-root DIR")
    (tmp_path / "digits").mkdir()
    images, note = _images(replace(TICKET, dataset="folder"), "a" * 64, None)
    assert images["classes"] is None and note.endswith("--data-root DIR")
    images, note = _images(TICKET, "a" * 64, None)
    assert images["classes"] is None and "the data here (digits) are others" in note


def test_flags_for_places_and_limits_are_not_published() -> None:
    typed = [
        "python",
        "-m",
        "sweeps.lth_grid",
        "digits",
        "--storage",
        "/home/me",
        "--seeds",
        "3",
        "--data-root=/secret",
        "--address",
        "ray://x",
        "--max-hours",
        "0.5",
    ]
    assert without_places(typed) == ("python", "-m", "sweeps.lth_grid", "digits", "--seeds", "3")


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("/home/me/my_sweep.yaml", "my_sweep.yaml"),
        ("~/tickets/a.pt", "a.pt"),
        ("s3://bucket/tickets/a.pt", "a.pt"),
        ("--import-ticket=/home/me/a.pt", "--import-ticket=a.pt"),
        ("/home/me/runs/alone/", "alone"),
        ("my/sweep.yaml", "my/sweep.yaml"),
        ("1e-4..1e-2:log", "1e-4..1e-2:log"),
        ("torchvision:resnet50",) * 2,
        ("Sweep('/home/me/s.yaml', files=['/home/me/a'])", "Sweep('s.yaml', files=['a'])"),
        ("C:\\me\\a.pt", "a.pt"),
    ],
)
def test_of_other_places_only_the_last_part_is_published(typed: str, shown: str) -> None:
    assert without_places([typed]) == (shown,)


# -- uploading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    with fake_hub() as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


def test_push_uploads_the_files_of_the_folder(hub: FakeHub, trained: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["export", str(trained), TICKET.name, "--hub", str(tmp_path / "hub"), "--push", "me/ticket", "--private"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/me/ticket"
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "hub").iterdir()}
    [created] = hub.created
    assert created["visibility"] == "private" and (created["organization"], created["name"]) == ("me", "ticket")
    assert hub.commits == [f"Upload {TICKET.name}"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "refused it with 401 (Invalid username or password.); the Hub does not accept the token"),
        (403, "refused it with 403"),
        (0, "cannot be reached ("),
    ],
)
def test_a_push_that_fails_is_one_line_and_the_folder_stays(
    status: int, message: str, hub: FakeHub, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    hub.status = status
    if status == 0:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert main(["export", str(trained), TICKET.name, "--hub", str(tmp_path / "hub"), "--push", "me/ticket"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err and TOKEN not in err
    assert (tmp_path / "hub" / "README.md").is_file() and hub.files == {}
