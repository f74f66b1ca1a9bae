"""What fastai does with data of its own works with resident loaders: showing, predicting, interpreting, exporting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastai.metrics import accuracy
from PIL import Image
from torch import nn

from lth_trainable import TrialSpec, UserError
from lth_trainable.data.datasets import Dataset, Split, load_dataset
from lth_trainable.data.loaders import resident_loaders
from lth_trainable.training.execution import Execution
from lth_trainable.training.trial import Trial
from tests.support.callback import silent


@pytest.fixture(autouse=True)
def no_window() -> Any:
    mpl.use("Agg")
    yield
    plt.close("all")


def learner_of(data: Dataset, **settings: Any) -> Learner:
    torch.manual_seed(0)
    n = int(np.prod(data.shape))
    model = nn.Sequential(nn.Flatten(), nn.Linear(n, 32), nn.ReLU(), nn.Linear(32, len(data.classes)))
    learn = Learner(resident_loaders(data, batch_size=60, order_seed=0), model, metrics=accuracy, **settings)
    learn.logger, learn.create_mbar = silent, False
    return learn


@pytest.fixture(scope="module")
def learn() -> Learner:
    learn = learner_of(load_dataset("digits"))
    learn.fit(2, 1e-2)
    return learn


def colour_data() -> Dataset:
    """Three classes of 3 x 4 x 5 images; the class is the brightest channel."""
    draw = np.random.default_rng(0)

    def part(n: int) -> Split:
        y = np.arange(n, dtype=np.int64) % 3
        x = draw.normal(size=(n, 3, 4, 5)).astype(np.float32)
        x[np.arange(n), y] += 3
        return Split(x=x, y=y)

    return Dataset(train=part(90), valid=part(30), test=part(30), classes=("red", "green", "blue"), digest="0" * 64)


def test_the_vocabulary_is_that_of_the_classes(learn: Learner) -> None:
    assert list(learn.dls.vocab) == list("0123456789") and learn.dls.vocab.o2i["7"] == 7 and learn.dls.c == 10


def drawn() -> list[str]:
    return [ax.get_title() for ax in plt.gcf().axes if ax.images]


def test_batches_are_shown_with_their_labels(learn: Learner) -> None:
    epoch = learn.dls.train.epoch
    learn.dls.show_batch(max_n=4)
    _, y = learn.dls.train.one_batch()
    assert drawn() == [str(int(label)) for label in y[:4]]
    plt.close("all")
    learn.dls.valid.show_batch(max_n=2, unique=True)
    assert len(set(drawn())) == 1 and learn.dls.train.epoch == epoch
    augmented = resident_loaders(load_dataset("digits"), batch_size=60, order_seed=0, augment="flip_shift")
    x, _, items = augmented.train.show_batch(max_n=6, unique=True, show=False)
    assert len(items) == 6 and len({one.numpy().tobytes() for one in x}) > 1, "as augmentation changes one image"


def test_results_are_shown_with_both_labels(learn: Learner) -> None:
    learn.show_results(max_n=5)
    _, _, decoded = learn.get_preds(with_decoded=True)
    y = learn.dls.valid.y
    assert drawn() == [f"{int(y[i])}\n{int(decoded[i])}" for i in range(5)]


@pytest.mark.parametrize("index", [0, 5])
def test_predict_takes_an_item_in_every_form(learn: Learner, index: int, tmp_path: Path) -> None:
    x, y = learn.dls.valid.items[index]
    data = load_dataset("digits")
    assert data.pixels is not None
    pixels = np.rint((x.numpy() * data.pixels.std[0] + data.pixels.mean[0]) * data.pixels.scale).astype(np.uint8)
    file = tmp_path / "digit.png"
    Image.fromarray(pixels[0]).save(file)
    items = [
        x,
        x.numpy(),
        x.numpy().astype(np.float64),
        (x, y),
        pixels,
        torch.from_numpy(pixels),
        pixels[0],
        file,
        str(file),
    ]
    items += [Image.fromarray(pixels[0]), Image.fromarray(pixels[0]).convert("RGB")]
    with torch.no_grad():
        expected = learn.model(x[None]).softmax(1)[0]
    for item in items:
        label, number, probabilities = learn.predict(item)
        assert torch.allclose(probabilities, expected, atol=1e-5) and probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert int(number) == int(expected.argmax()) and label == str(int(number))
    shown, *_ = learn.predict(x, with_input=True)
    assert shown.shape == x.shape


def test_a_large_image_is_fitted(learn: Learner, tmp_path: Path) -> None:
    image = Image.fromarray(np.kron(np.eye(8, dtype=np.uint8) * 15, np.ones((10, 10), np.uint8)))
    wide = Image.new("L", (120, 80))
    wide.paste(image, (20, 0))
    first, second = learn.predict(image)[2], learn.predict(wide)[2]
    assert torch.allclose(first, second, atol=1e-6), "the centre square"


@pytest.mark.parametrize(("item", "message"), [
    (np.zeros((1, 9, 9), np.float32), r"item: found 'float32 of the shape \(1, 9, 9\)'; expected float32 of the shape"),
    (np.zeros((3, 8, 8), np.uint8), r"shape of its pixels: found \(3, 8, 8\)"),
    ("nowhere.png", "nowhere.png cannot be read as an image"), (7, "item: found 'int'; expected an image"),
])  # fmt: skip
def test_what_is_no_item_is_refused(learn: Learner, item: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        learn.predict(item)


def test_pixels_need_data_that_say_how_they_are_normalised() -> None:
    learn = learner_of(colour_data())
    learn.fit(2, 1e-2)
    with pytest.raises(UserError, match="does not say how it normalises them"):
        learn.predict(np.zeros((3, 4, 5), np.uint8))
    label, number, _ = learn.predict(learn.dls.valid.items[1][0])
    assert label == ("red", "green", "blue")[int(number)]
    learn.show_results(max_n=3)
    data = colour_data()
    train = Split(x=np.ascontiguousarray(data.train.x[:, :2]), y=data.train.y)
    two = replace(data, train=train, valid=train, test=train)
    learner_of(two).dls.show_batch(max_n=3)
    assert len(drawn()) == 3


def test_interpretation_is_right(learn: Learner) -> None:
    found = ClassificationInterpretation.from_learner(learn)
    x, y = learn.dls.valid.x, learn.dls.valid.y
    with torch.no_grad():
        scores = learn.model(x)
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (y.numpy(), scores.argmax(1).numpy()), 1)
    assert np.array_equal(found.confusion_matrix(), matrix) and matrix.sum() == 287
    wrong = matrix - np.diag(np.diag(matrix))
    actual, predicted, n = found.most_confused()[0]
    assert n == wrong.max() == wrong[int(actual), int(predicted)]
    losses, numbers = found.top_losses(3)
    reference = nn.functional.cross_entropy(scores, y, reduction="none")
    assert torch.allclose(losses, reference.topk(3).values) and torch.allclose(reference[numbers], losses)
    assert [int(label) for _, label in found.top_losses(3, items=True)[2]] == y[numbers].tolist()
    found.plot_top_losses(3)
    best, called = scores.softmax(1).max(1)
    rows = [(int(called[i]), int(y[i]), float(reference[i]), float(best[i])) for i in numbers.tolist()]
    assert drawn() == [f"{c}/{a} / {loss:.2f} / {p:.2f}" for c, a, loss, p in rows]
    found.plot_confusion_matrix()
    found.print_classification_report()
    found.show_results([0, 1])


def test_the_shuffled_training_data_are_interpreted_in_their_own_order(learn: Learner) -> None:
    epoch = learn.dls.train.epoch
    by_index = ClassificationInterpretation.from_learner(learn, ds_idx=0)
    by_loader = ClassificationInterpretation.from_learner(learn, dl=learn.dls.train)
    assert torch.equal(by_index.losses, by_loader.losses)
    assert np.array_equal(by_index.confusion_matrix(), by_loader.confusion_matrix())
    reference = nn.functional.cross_entropy(learn.model(learn.dls.train.x), learn.dls.train.y, reduction="none")
    assert torch.allclose(by_loader.losses, reference.detach(), atol=1e-5) and learn.dls.train.epoch == epoch


def test_an_exported_learner_predicts(learn: Learner, tmp_path: Path) -> None:
    learn.export(tmp_path / "model.pkl")
    x, _ = learn.dls.valid.items[3]
    again = load_learner(tmp_path / "model.pkl")
    assert again.predict(x)[0] == learn.predict(x)[0] and list(again.dls.vocab) == list(learn.dls.vocab)
    assert torch.equal(again.predict(np.full((8, 8), 9, np.uint8))[2], learn.predict(np.full((8, 8), 9, np.uint8))[2])
    loader = learn.dls.test_dl([x, x])
    assert len(loader) == 1 and torch.allclose(learn.get_preds(dl=loader)[0][0], learn.predict(x)[2], atol=1e-6)


def test_the_learner_of_a_trial_predicts_and_is_interpreted() -> None:
    trial = Trial(TrialSpec(control="dense"), load_dataset("digits"), Execution(), None)
    trial.learn.fit(1)
    rows = list(trial.log.rows)
    x, _ = trial.learn.dls.valid.items[0]
    label, number, probabilities = trial.learn.predict(x)
    assert label == str(int(number)) and probabilities.sum() == pytest.approx(1, abs=1e-5)
    matrix = ClassificationInterpretation.from_learner(trial.learn).confusion_matrix()
    assert (
        matrix.shape == (10, 10)
        and np.trace(matrix) / matrix.sum() == rows[-1]["valid_accuracy"]
        and trial.log.rows == rows
    )
