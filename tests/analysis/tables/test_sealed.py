"""Everything that a verdict depends on is under a checksum: a flipped bit is told, or the verdict stays the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import analysis
from analysis.gather import collect
from analysis.tables import parquet
from analysis.tables.exclusions import EXCLUSIONS, change_exclusions
from analysis.tables.index import INDEX
from analysis.tables.run_plan import FORMAT, TERMS, find_run, read_content, read_plan, write_content
from lth_trainable.errors import UserError
from lth_trainable.store.store import MANIFEST, PLAN, RECORD, Store, to_json
from tests.support.records import dense, drops, ladder, make_run, plan, settle

SEEDS = 3
SPECS = [*dense(SEEDS), *ladder(64, 92.22, seeds=SEEDS)]
ACCURACY = drops({None: 0.96, 64: 0.955, 92.22: 0.9})
BITS = 25  # of each file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A gathered run with a sealed plan and an excluded trial."""
    path = make_run(tmp_path, SPECS, ACCURACY)
    write_content(Store(tmp_path), "run", plan(SPECS))
    settle(path)
    change_exclusions(path, exclude=[SPECS[-1].name], reason="a broken disk")
    analysis.gather(path)
    return path


def judge(path: Path) -> list[list[dict[str, object]]]:
    """The rows of verdicts and trials, without writing anything."""
    store, run = find_run(path)
    tables = collect(store, run, read_plan(store, run)).tables
    return [tables[name].to_pylist() for name in ("verdicts", "trials")]


def told(path: Path) -> str:
    """The message of the error that judging a run raises; empty if it raises none."""
    try:
        judge(path)
    except UserError as error:
        return str(error)
    return ""


def flip(raw: bytes, bit: int) -> bytes:
    flipped = bytearray(raw)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def test_a_flipped_bit_in_a_sealed_plan_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_content(store, "run", plan(SPECS[:1]))
    raw = store.read(f"run/{PLAN}")
    for bit in random.Random(0).sample(range(8 * len(raw)), 1000):
        (tmp_path / "run" / PLAN).write_bytes(flip(raw, bit))
        with pytest.raises(UserError, match=r"finished trials stay"):
            read_content(store, "run")


@pytest.mark.parametrize(
    "file", [EXCLUSIONS, f"analysis/{INDEX}", "analysis/trials.parquet", "analysis/epochs.parquet"]
)
def test_a_flipped_bit_does_not_change_the_verdict_silently(run: Path, file: str) -> None:
    before, path = judge(run), run / file
    raw = path.read_bytes()
    for bit in random.Random(file).sample(range(8 * len(raw)), BITS):
        path.write_bytes(flip(raw, bit))
        assert file in told(run) or judge(run) == before, bit


@pytest.mark.parametrize("file", [RECORD, MANIFEST])
def test_a_flipped_bit_in_a_trial_is_told_or_is_without_effect(run: Path, file: str) -> None:
    before, spec = judge(run), SPECS[0]
    path = run / "trials" / spec.name / file
    raw = path.read_bytes()
    for number, bit in enumerate(random.Random(file).sample(range(8 * len(raw)), BITS)):
        path.write_bytes(flip(raw, bit))
        settle(run, number)
        trials = judge(run)[1]
        row = next(row for row in trials if row["trial"] == spec.name)
        assert (row["status"] == "damaged" and row["test_accuracy"] is None) or judge(run) == before, bit


def test_tables_that_were_changed_are_not_loaded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "PAUSE_SECONDS", 0.0)
    before = analysis.load(run).rows("trials")
    for name in ("trials.parquet", "verdicts.parquet", INDEX):
        path = run / "analysis" / name
        raw = path.read_bytes()
        for bit in random.Random(name).sample(range(8 * len(raw)), 3):
            path.write_bytes(flip(raw, bit))
            with pytest.raises(UserError, match="gather again: python -m analysis"):
                analysis.load(run)
        path.write_bytes(raw)
    assert analysis.load(run).rows("trials") == before


# -- plans of version 0.4.0, and plans that are lost -----------------------------------------------------------------


def test_a_plan_of_format_1_is_read_and_written_sealed(tmp_path: Path) -> None:
    store, content = Store(tmp_path), plan(SPECS)
    store.write(f"run/{PLAN}", to_json(content))
    assert read_content(store, "run") == content
    write_content(store, "run", content)
    assert read_content(store, "run") == content | {"format": FORMAT}


def test_a_plan_of_format_1_with_a_checksum_is_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(f"run/{PLAN}", to_json(plan(SPECS) | {"sha256": "0" * 64}))
    with pytest.raises(UserError, match=r"run/plan\.json: not readable as a plan \(.*checksum"):
        read_content(store, "run")


def test_the_terms_stay_fixed_without_the_plan_and_do_not_need_to_be_whole_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_content(store, "run", plan(SPECS, margin_pp=1.0))
    store.write(f"run/{PLAN}", to_json(plan(SPECS, margin_pp=9.0)))
    with pytest.raises(UserError, match=r"margin_pp: found 9.0; expected 1.0, as in terms\.json"):
        read_content(store, "run")
    store.write(f"run/{TERMS}", b"nonsense")
    assert read_content(store, "run")["margin_pp"] == 9.0
    write_content(store, "run", plan(SPECS, margin_pp=9.0))
    assert b"9.0" in store.read(f"run/{TERMS}")
