"""Data sets and networks of users are tried while planning: each mistake is one line, the same as that of `check`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.check import command
from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.cli.job import facts_of
from sweeps.experiments.small_dense import nearest_width
from sweeps.planning.fit_together import check_fit_together, keys_do_not_cover
from tests.support import bad_plugins

HERE = "tests.support.bad_plugins"


def spec(dataset: str = f"{HERE}:fine", **more: Any) -> TrialSpec:
    return TrialSpec(dataset=dataset, **{"batch_size": 10, "epochs": 1, **more})


def refusal(of: TrialSpec) -> str:
    with pytest.raises(UserError) as caught:
        check_fit_together([of], None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def said_by_check(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert command([kind, f"{HERE}:{name}", "--dataset", f"{HERE}:fine"]) == 1
    [line] = capsys.readouterr().out.splitlines()
    return line


@pytest.mark.parametrize("name", bad_plugins.DATA)
def test_a_wrong_data_set_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(spec(f"{HERE}:{name}"))
    assert said.startswith(f"dataset {HERE}:{name}") and bad_plugins.DATA[name] in said
    told = said_by_check("dataset", name, capsys)
    assert told.endswith(said.removeprefix(f"dataset {HERE}:{name}").lstrip(":, "))


@pytest.mark.parametrize("name", bad_plugins.NETWORKS)
def test_a_wrong_network_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(spec(model=f"{HERE}:{name}"))
    assert said.startswith(f"model {HERE}:{name}: ")
    assert any(words in said for words in bad_plugins.NETWORKS[name].split("|"))
    if name != "kept":  # it remembers the first call
        told = said_by_check("model", name, capsys)
        assert told == f"model {HERE}:{name}: BROKEN: {said.removeprefix(f'model {HERE}:{name}: ')}"


def test_a_function_of_a_library_with_other_arguments_is_refused_with_the_name_to_use() -> None:
    said = refusal(spec(model="torchvision.models:mobilenet_v2"))
    assert "expected f(shape, n_classes); did you mean torchvision:mobilenet_v2?" in said


def test_a_network_that_prunes_nothing_in_the_wanted_layers_is_refused() -> None:
    check_fit_together([spec(model=f"{HERE}:net")], None)
    assert "no layer to prune" in refusal(spec(model=f"{HERE}:net", layers="conv"))


def test_a_shipped_network_is_refused_without_torch_where_that_is_enough() -> None:
    assert "expected 3; choose another --model" in refusal(spec(model="resnet18"))
    assert "images of 6 x 6 pixels; expected at least 8 a side" in refusal(spec(model="conv_6"))
    check_fit_together([spec(model="conv_4"), spec(model="resnet20")], None)


@pytest.mark.parametrize("name", bad_plugins.ONE_IMAGE_REFUSED)
def test_a_last_batch_of_one_is_refused_with_another_batch_size(name: str) -> None:
    """30 training images in batches of 29."""
    trial = spec(model=f"{HERE}:{name}", batch_size=29)
    said = refusal(trial)
    assert said.startswith("batch_size: found 29 for 30 training images, whose last batch has 1 image")
    assert "expected another batch size, such as 30" in said
    check_fit_together([replace(trial, batch_size=30), replace(trial, batch_size=28)], None)


@pytest.mark.parametrize("name", bad_plugins.ONE_IMAGE_TAKEN)
def test_a_network_that_takes_one_image_may_have_a_last_batch_of_one(name: str) -> None:
    check_fit_together([spec(model=f"{HERE}:{name}", batch_size=29)], None)


def test_the_last_batch_of_the_issue_is_refused_for_digits() -> None:
    assert "such as 384" in refusal(spec("digits", model=f"{HERE}:norm_1d", batch_size=383))
    assert "whose last batch has 1 image" in refusal(spec("digits", model=f"{HERE}:norm_1d", batch_size=1))
    check_fit_together([spec("digits", batch_size=383)], None)


def test_one_image_to_evaluate_is_refused_where_the_network_has_no_running_statistics() -> None:
    """9 test images in batches of the user's loader, 8."""
    loaders = f"{HERE}:loaders_of_eight"
    assert "test: found 9 images" in refusal(spec(loaders, model=f"{HERE}:norm_1d_without_statistics"))
    check_fit_together([spec(loaders, model=f"{HERE}:norm_1d")], None)
    assert "batch_size: found 29" in refusal(spec(loaders, model=f"{HERE}:norm_1d", batch_size=29))


def test_the_digest_of_a_data_set_is_that_of_its_parts() -> None:
    names = (
        "fine", "other_with_the_same_digest", "more_classes_with_the_same_digest", "streamed_three_classes",
        "streamed_four_classes", "own_validation", "own_test",
    )  # fmt: skip
    digests = [facts_of((f"{HERE}:{name}", 0), None).digest for name in names]
    assert len(set(digests)) == len(names) and "v1" not in digests
    load_dataset.cache_clear()
    assert facts_of((f"{HERE}:fine", 0), None).digest == digests[0]


def test_data_that_differ_each_time_are_refused() -> None:
    assert "when it is loaded again" in refusal(spec(f"{HERE}:unseeded_images"))


def test_what_keys_do_not_cover_is_said_in_one_line_for_each_plug_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "from tests.support.bad_plugins import net\n\ndef f(shape, n_classes):\n    open('x')\n    return net"
    (tmp_path / "reading_network.py").write_text(text)
    [line] = keys_do_not_cover([spec(model="reading_network:f"), spec(model="reading_network:f", batch_size=5)])
    assert line.startswith("model reading_network:f: its keys do not cover what reading_network.py:4 reads")
    assert not keys_do_not_cover([spec(), spec("digits")])


@pytest.mark.parametrize("name", ["no_network", "exiting_network"])
def test_a_wrong_network_is_refused_where_its_weights_are_counted_too(name: str) -> None:
    """As for the baseline `small_dense`, before anything else looks at the network."""
    with pytest.raises(UserError, match=r"expected a network|SystemExit: 3"):
        nearest_width(spec(model=f"{HERE}:{name}"))
