"""What is sent to S3 arrives as it was sent, and costs few requests: moto's server, behind a proxy that does harm."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from lth_trainable.errors import StorageError
from lth_trainable.store.json_files import NotJson, seal_json, unseal_json
from lth_trainable.store.store import Store
from lth_trainable.store.upload import ATTEMPTS, PART_BYTES, arrived
from tests.support.faulty_proxy import CUT, LOST, SPOILT, FaultyProxy, with_a_bit_flipped
from tests.support.s3 import s3_server, storage

pytest.importorskip("boto3", reason="for the test extra")
pytest.importorskip("moto.server", reason="for the test extra")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.mark.parametrize("size", [0, 10, PART_BYTES, 2 * PART_BYTES + 1])
def test_one_request_shows_that_an_object_arrived_and_one_reads_it(server: str, size: int) -> None:
    content = random.Random(size).randbytes(size)
    with FaultyProxy(server, {}, seed=0).running() as proxy:
        store = Store(storage(proxy.address, "parts"))
        store.write("a", content)
        path, before = f"{store.root}/a", proxy.requests()
        assert arrived(store.fs, path, content)
        assert proxy.requests() - before == {"HEAD": 1}
        before = proxy.requests()
        assert store.read("a") == content
        assert (proxy.requests() - before)["GET"] == min(1, size)
        assert not arrived(store.fs, path, content + b"x") and not arrived(store.fs, f"{path}b", content)


@pytest.mark.parametrize("fault", [LOST, SPOILT, CUT])
def test_what_is_sealed_is_what_was_sent(server: str, fault: str) -> None:
    """A fifth of the requests: answers are lost, a bit of what is sent flips at a server that does not check, ..."""
    with FaultyProxy(server, {fault: 0.2}, seed=1).running() as proxy:
        store = Store(storage(proxy.address, fault))
        files = {"a.bin": bytes(range(256)) * 12, "b.bin": b"content"}
        for number in range(5):
            store.seal_shared(f"states/{number}", files, {})
        folders = [store.find(f"states/{number}") for number in range(5)]
        assert proxy.met[fault] > 5
    sound = Store(storage(server, fault))
    for folder in folders:
        assert folder is not None
        assert {name: sound.content(folder, name) for name in files} == files


def test_what_never_arrives_is_an_error(server: str) -> None:
    with FaultyProxy(server, {SPOILT: 1.0}, seed=2).running() as proxy:
        with pytest.raises(StorageError, match="is not what was sent, 3 times"):
            Store(storage(proxy.address, "never")).write("a", bytes(100_000))
        assert proxy.met[SPOILT] >= ATTEMPTS


def test_a_bit_that_flips_on_the_way_from_the_server_is_read_again(server: str, store: Store) -> None:
    """For a folder of files too: where it is mounted from another machine, the same can happen."""
    content = bytes(1000)
    folder = store.seal("states/a", {"a.bin": content}, {})
    read, answers = store.read, [content[:-1] + b"?", content]
    store.read = lambda path: answers.pop(0) if answers else read(path)  # type: ignore[method-assign]
    assert store.content(folder, "a.bin") == content and not answers
    sealed = seal_json({"a": 1})
    store.write("plan.json", sealed)
    answers = [with_a_bit_flipped(sealed, number) for number in (40, 7)]
    assert store.read_as("plan.json", unseal_json) == {"a": 1} and not answers
    answers = [with_a_bit_flipped(sealed, number) for number in (40, 7, 9)]
    with pytest.raises(NotJson):
        store.read_as("plan.json", unseal_json)
