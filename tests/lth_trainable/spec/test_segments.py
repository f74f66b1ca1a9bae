from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest

from lth_trainable.errors import UserError
from lth_trainable.spec.segments import Segment, _event, _ladder, _line, _on_line, rewind_key, segments, state_at
from lth_trainable.spec.trial_spec import TrialSpec

DATA = "d" * 64


def chain(**fields: Any) -> tuple[Segment, ...]:
    return segments(TrialSpec(**fields), DATA, 20)


def keys(segments_: tuple[Segment, ...]) -> list[str]:
    return [segment.key for segment in segments_]


def test_epochs_of_the_segments_are_the_epochs_of_the_trial() -> None:
    for fields in (
        {"control": "dense"},
        {"target_sparsity_pct": 92.22, "rewind_epoch": 1},
        {"schedule": "omp"},
        {"schedule": "iterative", "rewind_epoch": 1},
        {"schedule": "agp"},
    ):
        spec = TrialSpec(**fields)
        assert sum(segment.epochs for segment in segments(spec, DATA)) == spec.epochs_alone()


def test_an_imp_trial_trains_then_prunes_rewinds_and_trains_again() -> None:
    found = [(s.kind, s.level, s.start, s.end) for s in chain(target_sparsity_pct=64, rewind_epoch=1)]
    level = lambda n: [("prune", n, 20, 20), ("rewind", n, 1, 1), ("train", n, 1, 20)]  # noqa: E731
    assert found == [("init", 0, 0, 0), ("train", 0, 0, 1), ("train", 0, 1, 20), *level(1), *level(2)]


def test_targets_on_one_rate_share_their_ladder() -> None:
    short, long = keys(chain(target_sparsity_pct=64)), keys(chain(target_sparsity_pct=92.22))
    assert long[: len(short)] == short


def test_dense_training_is_shared_whatever_is_rewound_to() -> None:
    dense = keys(chain(control="dense"))
    at_0, at_1 = chain(rewind_epoch=0), chain(rewind_epoch=1)
    assert state_at(at_0, 20) == state_at(at_1, 20) == dense[-1]
    prunes = [next(s.key for s in c if s.kind == "prune") for c in (at_0, at_1)]
    rewinds = [next(s.key for s in c if s.kind == "rewind") for c in (at_0, at_1)]
    assert prunes[0] == prunes[1] and rewinds[0] != rewinds[1]


def test_constant_lr_does_not_know_the_total() -> None:
    assert state_at(chain(rewind_epoch=5, epochs=20), 5) == keys(chain(control="dense", epochs=5))[-1]


def test_a_key_knows_what_acts_and_nothing_else() -> None:
    base = chain(target_sparsity_pct=64)
    for fields, first_changed in (
        ({"criterion": "random"}, "prune"),
        ({"context": "global"}, "prune"),
        ({"prune_rate_pct": 20}, "prune"),
        ({"lr": 0.1}, "train"),
        ({"order_seed": 9}, "train"),
        ({"augment": "flip"}, "train"),
        ({"lr_policy": "cosine"}, "train"),
        ({"momentum": 0.8}, "train"),
        ({"validate_every": 100}, "train"),
        ({"output_prune_rate_pct": 20}, "prune"),
        ({"rewind_epoch": 1}, "rewind"),
        ({"rewind_epoch": "5it"}, "rewind"),
        ({"rewind_optimizer": "fresh"}, "rewind"),
        ({"retrain": "lr_rewinding"}, "rewind"),
        ({"retrain": "fine_tuning"}, "rewind"),
        ({"seed": 1}, "init"),
        ({"split_seed": 1}, "init"),
    ):
        other = chain(target_sparsity_pct=64, **fields)
        theirs = {segment.key for segment in other}
        changed = next(segment.kind for segment in base if segment.key not in theirs)
        assert changed == first_changed, fields


def test_the_data_are_in_the_root() -> None:
    assert segments(TrialSpec(), "a")[0].key != segments(TrialSpec(), "b")[0].key


def test_within_one_fit_the_clock_runs_on_through_the_resets() -> None:
    found = [(s.kind, s.start, s.end) for s in chain(schedule="iterative", start_pct=0.25, rewind_epoch=1)]
    assert found[:5] == [("init", 0, 0), ("train", 0, 1), ("train", 1, 5), ("prune", 5, 5), ("rewind", 5, 5)]
    assert found[-1] == ("train", 15, 20)


def test_a_learning_rate_that_moves_knows_the_total() -> None:
    short, long = (chain(control="dense", lr_policy="one_cycle", epochs=epochs) for epochs in (5, 20))
    assert long[1].key_at(5) != short[-1].key
    assert chain(control="dense", lr_policy="one_cycle", momentum=0.9) == chain(control="dense", lr_policy="one_cycle")


def test_an_epoch_has_one_key_however_the_line_is_cut() -> None:
    whole, cut = chain(control="dense")[1], chain(rewind_epoch=7)[1:3]
    for epoch in range(1, 21):
        assert whole.key_at(epoch) == cut[0].key_at(epoch) == cut[1].key_at(epoch)
    assert len({whole.key_at(epoch) for epoch in range(21)}) == 21


def test_a_rewind_to_an_iteration_starts_within_its_epoch() -> None:
    spec = TrialSpec(target_sparsity_pct=40, rewind_epoch="45it")
    found = segments(spec, DATA, 20)
    assert [(s.kind, s.start, s.end) for s in found[1:]] == [
        ("train", 0, 20), ("prune", 20, 20), ("rewind", 2, 2), ("train", 2, 20),
    ]  # fmt: skip
    assert sum(segment.epochs for segment in found) == spec.epochs_alone(20) == 38
    other = TrialSpec(target_sparsity_pct=64, rewind_epoch="45it")
    assert rewind_key(spec, found) == rewind_key(other, segments(other, DATA, 20))
    assert rewind_key(spec, found) not in {found[1].key_at(epoch) for epoch in range(21)}
    with pytest.raises(UserError, match="less than 400it"):
        chain(rewind_epoch="400it")


def test_only_what_rewinds_has_a_rewind_point() -> None:
    for fields in ({"retrain": "lr_rewinding"}, {"retrain": "fine_tuning"}, {"schedule": "agp"}, {"control": "dense"}):
        assert rewind_key(TrialSpec(**fields), chain(**fields)) is None, fields
    at_0 = chain()
    assert rewind_key(TrialSpec(), at_0) == at_0[0].key


LADDERS: tuple[dict[str, Any], ...] = (
    {}, {"rewind_epoch": 3}, {"rewind_epoch": "30it"}, {"retrain": "lr_rewinding"}, {"retrain": "fine_tuning"},
    {"rewind_optimizer": "fresh"}, {"reset_end": True}, {"output_prune_rate_pct": 10.0}, {"criterion": "random"},
    {"control": "random_mask"}, {"control": "reinit"}, {"control": "dense_restarts"}, {"schedule": "omp"}, {"seed": 1},
)  # fmt: skip


def test_tickets_have_the_same_segments_whichever_were_made_before_them() -> None:
    """The levels that tickets have in common are made once, and kept for the next of them."""
    specs = [TrialSpec(**{"target_sparsity_pct": s, **own}) for own in LADDERS for s in (40, 64, 87.04, 95.33)]
    random.Random(0).shuffle(specs)
    together = [segments(spec, "data", 20) for spec in specs]
    alone = []
    for spec in specs:
        for cache in (_ladder, _event, _line, _on_line):
            cache.cache_clear()
        alone.append(segments(spec, "data", 20))
    assert together == alone


def test_the_levels_of_another_ladder_are_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments are made once for tickets in common; they are compared level by level before they are used again."""
    spec = TrialSpec(target_sparsity_pct=78.4, seed=4711)
    with monkeypatch.context() as patched:
        patched.setattr(TrialSpec, "level_sparsities", property(lambda _: (Fraction(1, 5), Fraction(0), Fraction(0))))
        other = [segment.sparsity for segment in segments(spec, "data")]
    own = [segment.sparsity for segment in segments(spec, "data")]
    assert set(other) == {Fraction(0), Fraction(1, 5)}
    assert sorted(set(own)) == [Fraction(0), *spec.level_sparsities]
