"""Recipes in files: what is written is read again, and a mistake is one line that names its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lth_trainable.errors import UserError
from sweeps import lth_grid, recipe
from sweeps.experiments.expand import expand
from sweeps.experiments.recipe_files import any_recipe, as_yaml, read_recipe
from sweeps.experiments.recipes import RECIPES, digits, in_steps, supermasks_once
from tests.support.command import ROOT


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_the_same_after_a_file(name: str, tmp_path: Path) -> None:
    sweep = RECIPES[name]()
    again = read_recipe(written(tmp_path, as_yaml(sweep)))
    assert again == replace(sweep, base=dict(sweep.base)) and expand(again).trials == expand(sweep).trials


def test_toml_says_the_same(tmp_path: Path) -> None:
    text = """
    from = "digits"
    seeds = 3
    controls = ["reinit"]
    [base]
    lr = 0.002
    [axes]
    sparsity = [50, 80]
    rewind-epoch = [0, "500it"]
    """
    sweep = any_recipe(str(written(tmp_path, text, "mine.toml")))
    assert (sweep.name, sweep.seeds, sweep.controls, sweep.margin_pp) == ("mine", (0, 1, 2), ("reinit",), 2.0)
    assert sweep.axes == {"target_sparsity_pct": (50.0, 80.0), "rewind_epoch": (0, "500it")}
    assert {trial.lr for trial in expand(sweep).trials} == {0.002}


def test_controls_of_the_recipe_it_starts_from_are_optional_and_those_of_the_file_are_not(tmp_path: Path) -> None:
    inherited = read_recipe(written(tmp_path, "from: digits\nbase: {schedule: dsd}\n"))
    assert (inherited.controls, inherited.if_possible) == (("reinit",), ("controls",))
    assert any("reinit of the recipe is left out" in note for note in expand(inherited).notes)
    named = read_recipe(written(tmp_path, "from: digits\ncontrols: [reinit]\nbase: {schedule: dsd}\n"))
    with pytest.raises(UserError, match="controls reinit: no ticket of this sweep can have it"):
        expand(named)
    asked = read_recipe(written(tmp_path, "from: digits\ncontrols: [reinit]\nif_possible: [controls]\n"))
    assert asked.if_possible == ("controls",)


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path: Path) -> None:
    sweep = read_recipe(written(tmp_path, "base: {lr: 1e-3, epochs: 2}\naxes: {sparsity: 50}\nmargin_pp: 5e-1\n"))
    assert (sweep.base["lr"], sweep.margin_pp, sweep.axes) == (1e-3, 0.5, {"target_sparsity_pct": (50.0,)})


def test_base_and_axes_replace_those_of_the_recipe_that_the_file_starts_from(tmp_path: Path) -> None:
    fixed = read_recipe(written(tmp_path, "from: digits\nbase: {rewind_epoch: 1}\n"))
    assert fixed.base == {"rewind_epoch": 1} and list(fixed.axes) == ["target_sparsity_pct"]
    free = read_recipe(written(tmp_path, "from: mnist_lenet\naxes: {lr: [1e-3, 2e-3], sparsity: [50]}\n"))
    assert "lr" not in free.base and free.base["epochs"] == 55 and free.axes["lr"] == (1e-3, 2e-3)
    selected = read_recipe(written(tmp_path, "from: pets_tutorial\nseeds: [4, 7]\n"))
    assert selected.seeds == (4, 7) and selected.selects is supermasks_once and selected.controlled is in_steps


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from: digits\nif_possible: [control]", "if_possible: found 'control'; .*did you mean controls"),
        ("axis: {sparsity: [50]}", "mine.yaml, key: found 'axis'; expected one of .*; did you mean axes"),
        ("axes: {sparsty: [50]}", "mine.yaml, axes: found 'sparsty'; .* did you mean sparsity"),
        ("axes: {sparsity: [half]}", "axes, sparsity: found 'half'; expected a number"),
        ("axes: {sparsity: []}", "axes, sparsity: found .*; expected at least one value"),
        ("axes: {sparsity: [50]}\nbase: {epochs: 1.5}", "base, epochs: found 1.5; expected a whole number"),
        ("axes: {sparsity: [50]}\nbase: {sparsity: 80}", "found target_sparsity_pct under base and under axes"),
        ("axes: {sparsity: [50]}\nbase: {reset_end: 1}", "base, reset_end: found 1; expected true or false"),
        ("axes: {sparsity: [50]}\nbase: {seed: 1}", "base: found 'seed'; expected one of"),
        ("axes: {sparsity: [50]}\nbase: 3", "base: found 3; expected fields of a trial"),
        ("axes: {sparsity: [50]}\nseeds: -1", "seeds: found -1; expected the number of seeds"),
        ("axes: {sparsity: [50]}\nseeds: [a]", r"seeds: found \['a'\]; expected a list of whole numbers"),
        ("axes: {sparsity: [50]}\nmargin_pp: -1", "margin_pp: found -1.0; expected percentage points"),
        ("axes: {sparsity: [50]}\nendpoint: accuracy", "endpoint: found 'accuracy'; expected one of"),
        ("axes: {sparsity: [50]}\nlooks: [5, 3]", "looks: found .*; expected increasing numbers"),
        ("axes: {sparsity: [50]}\nname: ../up", "name: found '../up'; expected a name for the folder"),
        ("axes: {sparsity: [50]}\nselects: few", "selects: found 'few'; expected one of every_point"),
        (
            "axes:\n  sparsity: 50,80",
            r"sparsity: found '50,80'; expected one value; several values are a list: \[50, 80\]",
        ),
        ("axes: {sparsity: 50..80}", r"sparsity: found '50\.\.80'; .* ranges are for searches"),
        ("axes: {sparsity: 50,80}", r"axes: found 80; .* in brackets: sparsity: \[50, 80\]"),
        ("axes: {sparsity: [50], schedule: 'imp, omp'}", r"schedule: found 'imp, omp'; .* a list: \[imp, omp\]"),
        ("axes: {sparsity: [50]}\nbase: {epochs: '2, 3'}", r"epochs: found '2, 3'; .* a list: \[2, 3\], under axes"),
        ("axes: {sparsity: [50]}\nbase: {lr: [1, 2]}", r"lr: found \[1, 2\]; .* belong under axes: \{lr: \[1, 2\]\}"),
        ("axes: {sparsity: [50]}\nseeds: 0,1", r"seeds: found '0,1'; .* did you mean \[0, 1\]\?"),
        ("axes: {sparsity: [50]}\ncontrols: reinit,sign_shuffle", r"did you mean \[reinit, sign_shuffle\]\?"),
        ("axes: {sparsity: [50]}\ncontrols: reinit", "controls: found 'reinit'; expected a list of names"),
        ("from: digit", "found 'digit'; expected one of .*; did you mean digits"),
        ("from: other.yaml", "from: found 'other.yaml'; expected one of digits"),
        ("seeds: 3", "mine.yaml, axes: found none; expected at least one, such as"),
        ("- 1", "mine.yaml: found .1.; expected keys and values"),
        ("", "mine.yaml: found None; expected keys and values"),
        ("axes: {sparsity: [50]}\nseeds: 2\nseeds: 3", "is not valid YAML .*found 'seeds' twice"),
        ("axes: {sparsity: [50", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [true]", "is not valid YAML"),
        ("[" * 5000, "is not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        expand(read_recipe(written(tmp_path, text)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.yaml", "folder.toml", "binary.yml"])
def test_what_cannot_be_read_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00")
    assert lth_grid.main([str(tmp_path / name), "--dry-run", "--storage", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: recipe: cannot read {tmp_path / name} (") and error.count("\n") == 1


def test_show_writes_a_file_that_diff_finds_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe.main(["show", "digits", "--yaml"]) == 0
    file = written(tmp_path, capsys.readouterr().out)
    assert recipe.main(["diff", "digits", str(file)]) == 0
    assert "do not differ" in capsys.readouterr().out
    assert recipe.main(["show", str(file)]) == 0
    assert digits().claim in capsys.readouterr().out


def test_the_recipe_of_the_docs_is_a_sweep(tmp_path: Path) -> None:
    text = Path(ROOT, "docs/command-line.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    sweep = read_recipe(written(tmp_path, text))
    trials = expand(sweep).trials
    assert len(sweep.seeds) == 10 and {trial.schedule for trial in trials if not trial.is_dense} == {"omp"}
