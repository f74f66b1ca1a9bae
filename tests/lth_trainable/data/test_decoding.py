"""Images that several processes decode at once are those that one decodes; so is what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lth_trainable.data import decoding
from lth_trainable.data.decoding import LEAST, decode_into
from lth_trainable.errors import UserError

N, SHAPE = 3 * LEAST + 7, (2, 3)


class Decoder:
    """Image i is full of i % 251. log: gets the process of each image. broken: images that are not. ends: kills it."""

    def __init__(self, log: Path, broken: tuple[int, ...] = (), ends: int | None = None) -> None:
        self.log, self.broken, self.ends, self.home = log, broken, ends, os.getpid()

    def __call__(self, index: int) -> npt.NDArray[np.uint8]:
        if index == self.ends and os.getpid() != self.home:
            os._exit(9)
        if index in self.broken:
            raise UserError(f"image {index} is broken")
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return np.full(SHAPE[::-1], index % 251, np.uint8).T  # not contiguous


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "cores", lambda: 3)


def decoded(decoder: Decoder, n: int = N) -> npt.NDArray[np.uint8]:
    pixels = np.full((n, *SHAPE), 255, np.uint8)
    decode_into(pixels, decoder)
    return pixels


def expected(n: int = N) -> npt.NDArray[np.uint8]:
    return np.broadcast_to((np.arange(n) % 251).astype(np.uint8)[:, None, None], (n, *SHAPE))


def processes(decoder: Decoder) -> set[int]:
    return set(map(int, decoder.log.read_text().split()))


def test_each_process_decodes_a_part(cores: None, tmp_path: Path) -> None:
    decoder = Decoder(tmp_path / "log")
    assert np.array_equal(decoded(decoder), expected())
    assert len(processes(decoder)) == 3 and os.getpid() not in processes(decoder)
    assert len(decoder.log.read_text().split()) == N, "each image once"


def test_few_images_start_no_process(cores: None, tmp_path: Path) -> None:
    decoder = Decoder(tmp_path / "log")
    assert np.array_equal(decoded(decoder, 2 * LEAST - 1), expected(2 * LEAST - 1))
    assert processes(decoder) == {os.getpid()}


def test_one_core_starts_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(decoding, "cores", lambda: 1)
    decoder = Decoder(tmp_path / "log")
    assert np.array_equal(decoded(decoder), expected())
    assert processes(decoder) == {os.getpid()}


def test_the_first_broken_image_is_told(cores: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^image {LEAST + 30} is broken$"):
        decoded(Decoder(tmp_path / "log", broken=(N - 1, LEAST + 30)))


def test_what_a_killed_process_leaves_is_decoded_here(cores: None, tmp_path: Path) -> None:
    decoder = Decoder(tmp_path / "log", ends=LEAST + 30)
    assert np.array_equal(decoded(decoder), expected())
    assert os.getpid() in processes(decoder) and len(processes(decoder)) == 4


def test_a_python_that_does_not_start_leaves_all_of_it(
    cores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "WORK", "raise SystemExit(1)")
    decoder = Decoder(tmp_path / "log")
    assert np.array_equal(decoded(decoder), expected())
    assert processes(decoder) == {os.getpid()}
