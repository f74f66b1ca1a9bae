"""Tickets from elsewhere: what a spec says of them, what files say, what does not fit, how they are stored."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from lth_trainable.errors import UserError
from lth_trainable.pruning.ticket import Ticket, save_ticket
from lth_trainable.spec.segments import segments
from lth_trainable.spec.ticket_id import TicketId, parse_ticket
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.store import Store
from lth_trainable.tickets.fit import fit_ticket, layers_of
from lth_trainable.tickets.formats import read_foreign
from lth_trainable.tickets.imported import ImportedTicket, find_imported
from lth_trainable.training.run import run_trial
from tests.plugins import tiny_cnn
from tests.support.tickets import DIGEST, half, lenet, read, weights_of, write_half

GIVEN = {"ticket": DIGEST, "target_sparsity_pct": 87.04}


@pytest.fixture
def half_ticket(tmp_path: Path) -> ImportedTicket:
    return write_half(tmp_path / "half.pt")


def assert_ticket(found: ImportedTicket, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    assert found.weights.keys() == weights.keys() and found.masks.keys() == masks.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in weights.items())
    assert all(np.array_equal(found.masks[name], mask.bool().numpy()) for name, mask in masks.items())


# -- what a spec says of it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [DIGEST, f"{DIGEST}-masked", f"{DIGEST}-e12", f"{DIGEST}-masked-e2"])
def test_the_text_of_a_ticket_is_read_as_it_is_written(name: str) -> None:
    assert str(parse_ticket(name)) == name
    assert parse_ticket(f"{DIGEST}-masked-e2") == TicketId(digest=DIGEST, masked=True, epoch=2)


def test_nothing_of_how_a_ticket_is_found_acts_in_a_given_one() -> None:
    spec = TrialSpec(**GIVEN, seed=3)
    assert spec == TrialSpec(**GIVEN, seed=3, prune_rate_pct=20.0, criterion="movement", granularity="filter")
    assert (spec.schedule, spec.criterion, spec.prune_rate_pct, spec.retrain) == (None, None, None, "weight_rewinding")
    assert spec.name == "digits-lenet_300_100-ticket-s87.04-r0-t0a0a0a0a-seed3"
    assert spec.epochs_alone() == 20 and replace(spec, ticket=f"{DIGEST}-e5").epochs_alone() == 15
    assert spec_from_dict(spec.canonical()) == spec
    dense = replace(spec, control="dense")
    assert dense.name == "digits-lenet_300_100-dense-t0a0a0a0a-seed3"
    assert dense.starts_from_imported and not replace(dense, ticket=f"{DIGEST}-masked").starts_from_imported


def test_keys_have_the_ticket_where_the_weights_come_from_it_and_the_seed_always() -> None:
    spec, plain = TrialSpec(**GIVEN), TrialSpec(control="dense")

    def first_and_last(spec: TrialSpec) -> tuple[str, str]:
        chain = segments(spec, "data")
        return chain[0].key, chain[-1].key

    dense = replace(spec, control="dense")
    assert first_and_last(spec)[0] == first_and_last(dense)[0] != first_and_last(plain)[0]
    assert first_and_last(replace(dense, ticket=f"{DIGEST}-masked")) == first_and_last(plain), "trained once for both"
    assert spec.key("d") != replace(spec, ticket=f"{DIGEST}-e1").key("d") != TrialSpec().key("d")
    others = (replace(spec, seed=1), replace(spec, ticket=f"{DIGEST}-e1"), replace(spec, layers="all"))
    assert len({first_and_last(other)[1] for other in (spec, dense, *others)}) == 5
    assert [segment.kind for segment in segments(spec, "data")] == ["init", "given", "rewind", "train"]
    assert "ticket" not in plain.canonical()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ticket": "mine"}, "ticket: found 'mine'"),
        ({"ticket": f"{DIGEST}-e20"}, "no epoch would be left"),
        ({"schedule": "omp"}, "expected None with an imported ticket; its mask is imported"),
        ({"retrain": "lr_rewinding"}, "expected weight_rewinding with an imported ticket"),
        ({"reset_end": True}, "expected False with an imported ticket"),
        ({"rewind_epoch": "500it"}, "it starts at an epoch"),
        ({"target_sparsity_pct": 0.5}, "did you mean 50?"),
    ],
)
def test_what_does_not_go_with_a_given_ticket_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        TrialSpec(**{**GIVEN, **fields})


# -- what files say ----------------------------------------------------------------------------------------------------


def wrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def test_zeros_are_the_mask_of_a_plain_state_dict(tmp_path: Path) -> None:
    weights = weights_of(lenet())
    masks = half(weights)
    for name, mask in masks.items():
        weights[name] *= mask
    torch.save(weights, tmp_path / "a.pt")
    save_file(weights, tmp_path / "a.safetensors")
    torch.save({"epoch": 3, "state_dict": wrapped(weights), "optimizer": {"state": {}}}, tmp_path / "b.pth")
    one, other, nested = (read(tmp_path / name) for name in ("a.pt", "a.safetensors", "b.pth"))
    assert_ticket(one, weights, masks)
    assert one.masked and one.digest == other.digest == nested.digest
    assert nested.notes == ("the entry state_dict of b.pth", "prefix module. removed from its names")
    assert str(one.id()) == f"{one.digest}-masked" and str(one.id(2)) == f"{one.digest}-masked-e2"


def test_masks_of_their_own_keep_the_weights_outside_them(tmp_path: Path) -> None:
    weights = weights_of(lenet())
    masks = half(weights)
    torch.save(weights | {f"{name}_mask": mask.float() for name, mask in masks.items()}, tmp_path / "within.pt")
    torch.save(weights, tmp_path / "weights.pt")
    save_file({name: mask.bool() for name, mask in masks.items()}, tmp_path / "masks.safetensors")
    torch.save(wrapped(masks), tmp_path / "wrapped.pt")
    within = read(tmp_path / "within.pt")
    assert_ticket(within, weights, masks)
    assert not within.masked and str(within.id()) == within.digest
    for name in ("masks.safetensors", "wrapped.pt"):
        assert read(tmp_path / "weights.pt", tmp_path / name).digest == within.digest
    with pytest.raises(UserError, match=r"within.pt has masks of its own"):
        read(tmp_path / "within.pt", tmp_path / "wrapped.pt")


def test_a_network_pruned_with_torch(tmp_path: Path) -> None:
    model = lenet()
    before = weights_of(model)
    for index in (1, 3):
        prune.l1_unstructured(model[index], "weight", amount=0.5)
    torch.save(model.state_dict(), tmp_path / "pruned.pt")
    found = read(tmp_path / "pruned.pt")
    masks = {"1.weight": model[1].weight_mask, "3.weight": model[3].weight_mask, "5.weight": torch.ones(10, 100)}
    assert_ticket(found, before, masks)
    assert found.sparsity(["1.weight"]) == 1 / 2 and not found.masked


def test_a_file_of_save_ticket(tmp_path: Path) -> None:
    start, weights = weights_of(lenet()), weights_of(lenet())
    masks = half(weights)
    ticket = Ticket(
        masks={name: mask.bool().numpy() for name, mask in masks.items()}, initial=start, rewind=weights, final={},
        provenance={"rewind_epoch": 1},
    )  # fmt: skip
    found = read(save_ticket(ticket, tmp_path / "ticket.safetensors"))
    assert_ticket(found, weights, masks)
    assert found.epoch == 1


def write_open_lth(root: Path, step: str, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Path:
    """Levels 0 and 3 of a replicate as OpenLTH writes them: dense weights and ones, masked weights and the mask."""
    ones = {name: torch.ones_like(mask) for name, mask in masks.items()}
    for level, mask in ((0, ones), (3, masks)):
        folder = root / "lottery_1234" / "replicate_1" / f"level_{level}" / "main"
        folder.mkdir(parents=True)
        torch.save(dict(mask), folder / "mask.pth")
        start = {name: tensor * mask[name] if name in mask else tensor for name, tensor in weights.items()}
        torch.save(start, folder / f"model_{step}.pth")
        torch.save({name: tensor + 1 for name, tensor in start.items()}, folder / "model_ep40_it0.pth")
        (folder / "sparsity_report.json").write_text("{}")
    return root / "lottery_1234" / "replicate_1" / "level_3"


def test_a_level_of_open_lth_with_its_dense_start_from_level_0(tmp_path: Path) -> None:
    weights = weights_of(lenet())
    masks = half(weights)
    names = dict(zip(weights, [f"fc_layers.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")] + ["fc.weight",
                 "fc.bias"], strict=True))  # fmt: skip
    there = {names[name]: tensor for name, tensor in weights.items()}
    level = write_open_lth(tmp_path, "ep2_it109", there, {names[name]: mask for name, mask in masks.items()})
    found = read(level)
    assert_ticket(found, weights, masks)
    assert found.epoch == 2 and not found.masked and found.digest == read(level / "main").digest
    assert "start of OpenLTH's level_3, of iteration 109, within epoch 2" in found.notes[0]
    assert "weights outside the mask from its level_0" in found.notes[0]
    assert found.notes[1].startswith("tensors matched by their shapes: fc_layers.0.weight is 1.weight, ")
    shutil.rmtree(level.parent / "level_0")
    alone = read(level)
    assert alone.masked and all(np.array_equal(alone.masks[name], mask) for name, mask in found.masks.items())


def test_a_level_0_of_another_start_is_left_alone(tmp_path: Path) -> None:
    weights = weights_of(lenet())
    level = write_open_lth(tmp_path, "ep0_it0", weights, half(weights))
    other = level.parent / "level_0" / "main" / "model_ep0_it0.pth"
    for content in ({name: tensor + 1 for name, tensor in weights.items()}, weights | {"1.weight": torch.ones(3, 5)}):
        torch.save(content, other)
        found = read(level)
        assert found.masked and "its level_0 has other weights" in found.notes[0]


def test_tied_weights_are_stored_and_found_again(store: Store, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    weights = model.state_dict()
    weights["0.weight"][::2] = 0
    torch.save(weights, tmp_path / "tied.pt")
    found = fit_ticket(read_foreign(tmp_path / "tied.pt"), model)
    found.seal(store)
    assert list(found.masks) == ["0.weight"] and find_imported(store, found.digest).digest == found.digest


# -- what does not fit -------------------------------------------------------------------------------------------------


def without_a_tensor(weights: dict[str, Tensor]) -> None:
    weights["extra.weight"] = weights.pop("3.weight")


def of_another_width(weights: dict[str, Tensor]) -> None:
    weights["1.weight"] = torch.zeros(300, 784)


def with_nan(weights: dict[str, Tensor]) -> None:
    weights["3.bias"][5] = float("nan")


def collapsed(weights: dict[str, Tensor]) -> None:
    weights["3.weight"].zero_()


def with_a_mask_of_biases(weights: dict[str, Tensor]) -> None:
    weights["1.bias_mask"] = torch.zeros(300)


def with_a_soft_mask(weights: dict[str, Tensor]) -> None:
    weights["1.weight_mask"] = torch.full((300, 64), 0.5)


def with_a_mask_of_another_shape(weights: dict[str, Tensor]) -> None:
    weights["1.weight_mask"] = torch.zeros(64, 300)


def as_it_is(weights: dict[str, Tensor]) -> None:
    """Dense."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_tensor, "1 missing (3.weight 100×300), 1 unexpected (extra.weight 100×300); expected its 6"),
        (of_another_width, "1 of another shape (1.weight 300×784, there 300×64)"),
        (with_nan, "t.pt, 3.bias: found 'NaN or infinite weights'"),
        (collapsed, "t.pt, 3.weight: found 'no weight left'; expected at least one in every layer"),
        (with_a_mask_of_biases, "t.pt, mask of 1.bias: found 'zeros'; expected zeros only in weights of convolutions"),
        (with_a_soft_mask, "t.pt, mask of 1.weight: found 'values between'"),
        (with_a_mask_of_another_shape, "t.pt, mask of 1.weight: found '64×300'; expected the shape of 1.weight"),
        (as_it_is, "t.pt: found no zeros in its masks; expected a ticket"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_network_is_one_clear_error(
    change: Callable[[dict[str, Tensor]], None], message: str, tmp_path: Path
) -> None:
    weights = weights_of(lenet())
    change(weights)
    torch.save(weights, tmp_path / "t.pt")
    with pytest.raises(UserError) as error:
        read(tmp_path / "t.pt")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_ticket_is_one_clear_error(tmp_path: Path) -> None:
    weights = weights_of(lenet())
    torch.save(lenet(), tmp_path / "model.pt")
    torch.save({"a": weights, "b": weights}, tmp_path / "two.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("broken.pt", "broken.safetensors", "weights.h5"):
        (tmp_path / name).write_bytes(b"not tensors")
    (tmp_path / "text.pt").write_text("hello\n")  # 'h' is an opcode of pickle
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("text.pt", "is not a file of torch.save; expected a .safetensors or .pt file"),
        ("model.pt", "holds more than tensors, and unpickling that could run any code"),
        ("two.pt", "found several: a, b; expected one state_dict"),
        ("list.pt", "found a list without one"),
        ("broken.pt", "is damaged, or holds more than tensors"),
        ("broken.safetensors", "cannot be read"),
        ("weights.h5", "expected a .safetensors or .pt file"),
        ("folder", "a folder with ticket.json (analysis export) or mask.pth"),
        ("nowhere", "there is no such file or folder"),
    ):
        with pytest.raises(UserError) as error:
            read(tmp_path / name)
        assert message in str(error.value) and "\n" not in str(error.value), error.value


def test_layers_are_the_usual_ones_unless_the_mask_goes_beyond(tmp_path: Path) -> None:
    model = tiny_cnn((1, 8, 8), 10)
    weights = weights_of(model)
    convolution, linear = [name for name, tensor in weights.items() if tensor.ndim in (2, 4)][::2]
    weights[convolution][::2] = 0
    torch.save(weights, tmp_path / "conv.pt")
    found = fit_ticket(read_foreign(tmp_path / "conv.pt"), model)
    assert layers_of(found, model, None) == "auto" and linear in found.masks
    weights[linear][:, ::2] = 0
    torch.save(weights, tmp_path / "both.pt")
    both = fit_ticket(read_foreign(tmp_path / "both.pt"), model)
    assert layers_of(both, model, None) == layers_of(both, model, "all") == "all"
    with pytest.raises(UserError, match=rf"both.pt, {linear}: found 'a mask with zeros'.*layers conv"):
        layers_of(both, model, "conv")


# -- in the store ------------------------------------------------------------------------------------------------------


def test_the_store_has_it_by_its_digest_and_reads_it_whole_or_not(half_ticket: ImportedTicket, store: Store) -> None:
    with pytest.raises(UserError, match=r"found none in .*import its file again"):
        find_imported(store, half_ticket.digest)
    half_ticket.seal(store)
    for digest in (half_ticket.digest, half_ticket.digest[:8]):
        found = find_imported(store, digest)
        assert found.digest == half_ticket.digest and found.source == "half.pt"
    folder = Path(store.root, store.state(half_ticket.digest, {}))
    path = next(folder.glob("weights-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"SHA-256 of the manifest; import its file again"):
        find_imported(store, half_ticket.digest)
    half_ticket.seal(store)
    assert find_imported(store, half_ticket.digest).digest == half_ticket.digest


def test_a_spec_of_another_sparsity_or_network_is_refused(half_ticket: ImportedTicket, store: Store) -> None:
    half_ticket.seal(store)
    ticket = str(half_ticket.id())
    with pytest.raises(UserError, match=r"sparsity: found 60.0; expected 50.0000 %"):
        run_trial(TrialSpec(ticket=ticket, target_sparsity_pct=60.0, epochs=1), store)
    other = TrialSpec(ticket=ticket, target_sparsity_pct=50.0, epochs=1, model="tests.plugins:tiny_cnn")
    with pytest.raises(UserError, match="found another network than the one that it was imported for"):
        run_trial(other, store)
