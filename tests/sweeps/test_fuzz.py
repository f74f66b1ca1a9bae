"""Whatever happens to any file of a storage: commands end with one line, touch nothing outside, and lie about nothing.

The number of cases of the long test is `LTH_FUZZ_CASES`. A case that fails is printed with what it takes to repeat it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.fuzz.campaign import HOSTILE, Case, run_case, run_verdict_case
from tests.support.fuzz.commands import ALL
from tests.support.fuzz.damage import WAYS
from tests.support.fuzz.in_process import in_process
from tests.support.fuzz.storage import PLACES, make_runs, make_storage, places, traces

CASES = int(os.environ.get("LTH_FUZZ_CASES", "300"))
FEW = 10
KINDS = tuple(kind for kind in PLACES if kind not in ("barriers", "figure", "study", "stored ticket", "../tickets"))
RELEVANT = (
    "plan", "terms", "index", "manifest of a trial", "record", "masks of a trial", "table", "history", "weights",
)  # fmt: skip
SLOW = ("figures", "figures of a search", "pack", "plan figure")
LIGHT = tuple(name for name in ALL if not ALL[name].trains and name not in (*SLOW, "export again"))
QUICK = settings(
    max_examples=FEW, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
SEED = st.integers(0, (1 << 32) - 1)


def any_case(kinds: Sequence[str], ways: Sequence[str]) -> st.SearchStrategy[Case]:
    return st.builds(Case, kind=st.sampled_from(kinds), way=st.sampled_from(ways), seed=SEED)


def some(names: Sequence[str], number: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), min_size=number, max_size=number, unique=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("made") / "runs"
    make_runs(root)
    before = traces(root)
    with in_process(page=lambda *_: "<html></html>"):
        yield root
    assert traces(root) == before, "a case has changed what it shares with the others"


def check(case: Case, made: Path, tmp_path: Path, names: Sequence[str]) -> None:
    faults = run_case(case, made, tmp_path / "case", names)
    assert not faults, "\n".join(map(str, faults)) + "\n" + faults[0].output


@QUICK
@given(case=any_case(KINDS, (*WAYS, *[HOSTILE] * len(WAYS))), names=some(LIGHT, 6))
def test_whatever_a_file_is_every_command_ends_with_one_line(
    runs: Path, tmp_path: Path, case: Case, names: list[str]
) -> None:
    check(case, runs, tmp_path, names)


@QUICK
@given(case=any_case(RELEVANT, tuple(WAYS)))
def test_no_damage_changes_a_verdict_silently(runs: Path, tmp_path: Path, case: Case) -> None:
    assert run_verdict_case(case, runs, tmp_path / "case") is None


def test_damage_of_every_kind_can_be_done(runs: Path, tmp_path: Path) -> None:
    """So that no case is empty: each kind has a file, and each way changes one."""
    assert all(places(runs / "runs", kind) for kind in KINDS)
    for way in WAYS:
        assert run_case(Case(kind="plan", way=way, seed=1), runs, tmp_path / "case", []) == []


# -- the long part -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "storage"
    make_storage(root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLACES)
def test_every_kind_of_file_in_every_way_with_every_command(storage: Path, tmp_path: Path, kind: str) -> None:
    rng = Random(kind)
    with in_process(page=lambda *_: "<html></html>"):
        for number in range(CASES // len(PLACES)):
            is_hostile = kind != "folder" and number % 2 == 0
            case = Case(kind=kind, way=HOSTILE if is_hostile else rng.choice(list(WAYS)), seed=rng.randrange(1 << 32))
            check(case, storage, tmp_path, rng.sample(list(ALL), 12))


@pytest.mark.slow
@pytest.mark.parametrize("kind", RELEVANT)
def test_no_damage_of_any_kind_changes_a_verdict_silently(storage: Path, tmp_path: Path, kind: str) -> None:
    rng = Random(kind)
    with in_process(page=lambda *_: "<html></html>"):
        for way in WAYS:
            for _ in range(max(1, CASES // 300)):
                case = Case(kind=kind, way=way, seed=rng.randrange(1 << 32))
                assert run_verdict_case(case, storage, tmp_path / "case") is None
