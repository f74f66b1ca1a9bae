"""Every entry of a dict keeps the contracts of its kind, by being in the dict."""

from __future__ import annotations

import pytest

from lth_trainable.contracts import CONTRACTS, Contract, entries

CASES = [
    pytest.param(contract, plug_in, id=f"{kind}-{name}-{contract.name.replace(' ', '_')}")
    for kind in CONTRACTS
    for name, plug_in in entries(kind).items()
    for contract in CONTRACTS[kind]
]


@pytest.mark.parametrize(("contract", "plug_in"), CASES)
def test_entry_keeps_its_contract(contract: Contract, plug_in: object) -> None:
    contract.check(plug_in)


def test_every_kind_has_entries_and_every_contract_says_what_it_promises() -> None:
    for kind, contracts in CONTRACTS.items():
        assert entries(kind), kind
        assert all(contract.check.__doc__ for contract in contracts)
