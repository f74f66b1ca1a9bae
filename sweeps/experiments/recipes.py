"""The built-in experiments, one function each. Its docstring gives the claim, the source, the size and the cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from analysis.tables.run_plan import ALPHA
from lth_trainable.pruning.levels import rungs
from lth_trainable.registry import make
from lth_trainable.scalars import plain_fields
from sweeps.experiments.tuning import Tuning

Axes = Mapping[str, tuple[Any, ...]]


def every_point(point: Mapping[str, Any], axes: Axes) -> bool:
    """Select every ticket of the product."""
    return True


def supermasks_once(point: Mapping[str, Any], axes: Axes) -> bool:
    """Select supermasks of the first rewind epoch only: those of a later one would end with trained weights."""
    rewinds = axes.get("rewind_epoch", ())
    return not (point.get("reset_end") and rewinds) or point["rewind_epoch"] == rewinds[0]


def own_setting(point: Mapping[str, Any], axes: Axes) -> bool:
    """Select for each network of `PUBLISHED` its own epochs and learning rate, where the axes have these."""
    own = PUBLISHED.get(str(point.get("model")), {})
    return all(point.get(name) == value or value not in axes.get(name, ()) for name, value in own.items())


def in_steps(point: Mapping[str, Any], axes: Axes) -> bool:
    """Select tickets that are pruned in several steps: their controls train only from the last of these on."""
    return point.get("schedule") != "one_shot"


# Settings of Frankle & Carbin, arXiv 1803.03635, fig. 2: 20,000, 25,000 and 30,000 iterations, in whole epochs of 750
PUBLISHED: dict[str, Mapping[str, Any]] = {
    "conv_2": {"epochs": 27, "lr": 2e-4}, "conv_4": {"epochs": 34, "lr": 3e-4}, "conv_6": {"epochs": 40, "lr": 3e-4},
}  # fmt: skip
SELECTIONS: dict[str, Callable[[Mapping[str, Any], Axes], bool]] = {
    "every_point": every_point, "supermasks_once": supermasks_once, "own_setting": own_setting, "in_steps": in_steps,
}  # fmt: skip
# Names of fields on the command line and in recipes, where they differ from those of `TrialSpec`.
FLAG_OF = {"target_sparsity_pct": "sparsity", "prune_rate_pct": "prune_rate", "criterion": "criteria"}
BRANCHES = ("controls", "baselines")  # fields that name what tickets are compared with
SELECTING = ("selects", "controlled")  # fields that hold a function which selects points
# Seeds, controls, baselines and imported tickets have their own flags; --rewind-epoch also takes iterations.
NO_AXIS = ("seed", "control", "width_pct", "rewind_step", "ticket")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """An experiment, fixed before the first trial: tickets, seeds, and what the tickets are compared with.

    base: spec fields that differ from the defaults. axes: values by spec field; their product gives the tickets.
    selects: which points of the product become tickets, a function of the point and the axes. seeds: replicates.
    controls: names in `branches.NAMES`, or "all". controlled: which tickets have them, as `selects`. baselines: names
    in `baselines.BASELINES`; the dense network trained for the ticket's own epochs always belongs to them. if_possible:
    "controls", "baselines" or both: one of these that no ticket can have is left out with a note; otherwise it is an
    error. endpoint: column of trials.parquet that decides. margin_pp: margin for "matches", in percentage points.
    alpha: level of each test. looks: increasing numbers of seeds at which the verdict is made; if empty, it is made
    once, with all seeds. published: claims of papers that the run is held against (docs/results.md), each with the
    margin within which it agrees, in the unit of the claim. tuning: how the learning rates of its arms were chosen, if
    they were tuned.
    """

    name: str
    claim: str
    base: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    axes: Axes
    selects: Callable[[Mapping[str, Any], Axes], bool] = every_point
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    controls: tuple[str, ...] = ()
    controlled: Callable[[Mapping[str, Any], Axes], bool] = every_point
    baselines: tuple[str, ...] = ("dense",)
    if_possible: tuple[str, ...] = ()
    endpoint: str = "test_accuracy"
    margin_pp: float = 0.5
    alpha: float = ALPHA
    looks: tuple[int, ...] = ()
    published: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        plain_fields(self, "base", "axes", "seeds", "margin_pp", "alpha", "looks", "published")


def digits() -> Sweep:
    """Tickets found by iterative magnitude pruning match the dense network, down to a few percent of its weights.

    Source: Frankle & Carbin, arXiv 1803.03635, sec. 2, on scikit-learn's digits. LeNet-300-100, Adam 1.2e-3, batch 60,
    40 % a level, 20 epochs a level, rewinding to epochs 0 and 1, eight seeds. Each ticket's mask is also trained from
    another initialisation (the control reinit). 48 tickets, 48 controls and 8 dense trials, 8,968 epochs, of which
    2,680 are distinct and are trained: three quarters of a minute on two cores.
    The margin is 2 pp, seven of the 360 test images, which are a sample as seeds are: even networks that agree on all
    of 360 images may differ on 1.02 % of others (97.5 % bound), so 1 pp cannot be shown with them.
    """
    return Sweep(
        name="digits",
        claim="Do tickets found by iterative magnitude pruning match the dense network?",
        axes={"target_sparsity_pct": (64.0, 87.04, 92.22), "rewind_epoch": (0, 1)},
        seeds=tuple(range(8)),
        controls=("reinit",),
        if_possible=("controls",),
        margin_pp=2.0,
    )


def digits_tutorial() -> Sweep:
    """Three prunes with resets within one fit of 20 epochs, compared with dense training of 20 epochs and of 5.

    Source: the fasterai tutorial (iterative, start_pct 0.25, 3 steps), on scikit-learn's digits. 40 tickets and 10
    dense trials, 925 epochs: a quarter of a minute on two cores.
    """
    return Sweep(
        name="digits_tutorial",
        claim="Do the tutorial's tickets, pruned and reset within one fit, beat the dense network?",
        base={"schedule": "iterative", "start_pct": 0.25},
        axes={"target_sparsity_pct": (50.0, 80.0, 90.0, 95.0), "rewind_epoch": (0, 1)},
        baselines=("dense", "dense_to_first_prune"),
        if_possible=("baselines",),
        margin_pp=2.0,
    )


def pets_tutorial() -> Sweep:
    """The tutorial: tickets, rewound tickets and supermasks of ResNet-18 on cats and dogs, at an equal budget too.

    Source: the fasterai tutorial (`fit(20, 1e-3)`, sched_iterative from 0.25 in 3 steps, lth, rewind_epoch 1,
    reset_end), on Oxford-IIIT Pet: ResNet-18 from scratch, 64 px, batch 64, fastai's Adam (beta2 0.99, eps 1e-5,
    decoupled weight decay 0.01) at a constant 1e-3, no augmentation; prunes after epochs 5, 10 and 15 of 20.
    Its claim is that a ticket of 50 % is more accurate than the dense network of 5 epochs, "in the same training time":
    the 5 epochs after the last of its resets. Here it is also compared with dense training of all 20 epochs, without
    and with the resets (dense_restarts). (dense_stretched would be the same trial as dense.)
    Differs from the tutorial: 36 seeds; also 80, 90 and 95 %, and one prune after epoch 5 (one_shot); supermasks are
    found in 20 epochs (there: 10); judged by the last epoch on 739 test images (there: 1,478 validation images); images
    are normalised and always cropped to their centre square (there: to a random square in training); the last, smaller
    batch of an epoch is trained on; weight decay acts on biases and BatchNorm too; precision auto, bf16 on a GPU that
    has it (there: fp32).
    The margin is 1 pp; one test image is 0.14 pp. Verdicts are for other seeds and other images: 739 images that agree
    still leave 0.5 % (97.5 % bound). Over seeds alone pairs differ by about 1.2 pp.
    All controls, of the tickets that are pruned in steps. Those of one_shot would take 840 epochs a seed, more than all
    that is here (--controls all has them too).
    The tutorial's accuracies are held with a margin of 3 pp, because each is of one run; its claim has none.
    864 tickets, 2,772 controls, 576 dense trials with resets and 72 dense trials, 85,140 epochs, of which 21,960 are
    distinct and trained: 610 a seed. Cost: 35 minutes on one H200 with --trials-per-gpu 12. 39 s an epoch on one
    CPU core, so not for two cores.
    """
    return Sweep(
        name="pets_tutorial",
        claim="Do the tutorial's tickets and supermasks match the dense network on cats and dogs?",
        base={
            "dataset": "pets", "model": "resnet18", "batch_size": 64, "lr": 1e-3, "beta2": 0.99, "eps": 1e-5,
            "weight_decay": 0.01, "start_pct": 0.25, "precision": "auto",
        },
        axes={
            "target_sparsity_pct": (50.0, 80.0, 90.0, 95.0), "schedule": ("iterative", "one_shot"),
            "rewind_epoch": (0, 1), "reset_end": (False, True),
        },
        selects=supermasks_once,
        seeds=tuple(range(36)),
        controls=("all",),
        controlled=in_steps,
        baselines=("dense", "dense_to_first_prune", "dense_restarts"),
        if_possible=("controls", "baselines"),
        margin_pp=1.0,
        published={
            "tutorial_ticket_above_dense_5": 0.0, "tutorial_dense_5": 3.0, "tutorial_ticket_50": 3.0,
            "tutorial_rewound_50": 3.0, "tutorial_supermask_50": 3.0,
        },
    )  # fmt: skip


def mnist_lenet() -> Sweep:
    """Tickets of LeNet-300-100 on MNIST match the dense network down to a few percent of its weights.

    Source: Frankle & Carbin, arXiv 1803.03635, sec. 2 and app. G: 266,200 weights, Adam 1.2e-3, batch 60, 55,000
    images, layer by layer 20 % a round and 10 % of the output layer, rewinding to initialisation, 20 rounds: down to
    51.3, 21.1, 13.5, 3.6, 1.9 and 1.2 % of the weights at rounds 3, 7, 9, 15, 18 and 20. 55 epochs of 917 steps are
    50,435 iterations, their 50,000. As there: validated every 100 iterations and judged at the early stop, the least
    validation loss, by the accuracy on the 10,000 test images and by the iteration. At each round two controls: the
    ticket's mask from another initialisation (reinit), and a shuffled mask from another one (random_sparse, their
    "randomly sampled sparse networks"). Ten seeds.
    Differs from the paper: pixels are normalised by mean and standard deviation of the training images (the paper does
    not say how it scales them); biases begin at zero; the last, smaller batch of an epoch is trained on; which 5,000
    images are the validation set is drawn once, and is the same for all seeds. The margin is 0.2 pp, as in arXiv
    1912.05671: the paper's own differences are about 0.3 pp.
    200 tickets, 400 controls and 10 dense trials, 380,050 epochs, of which 33,550 are distinct and trained.
    Cost: 1.4 seconds an epoch on one core, a third of a second of it for validation within the epoch, so 6.5 hours on
    two cores.
    """
    return Sweep(
        name="mnist_lenet",
        claim="Down to which sparsity do tickets of LeNet-300-100 match the dense network on MNIST?",
        base={
            "dataset": "mnist", "model": "lenet_300_100", "batch_size": 60, "lr": 1.2e-3, "beta2": 0.999, "eps": 1e-8,
            "weight_decay": 0.0, "epochs": 55, "prune_rate_pct": 20.0, "output_prune_rate_pct": 10.0,
            "rewind_epoch": 0, "validate_every": 100,
        },
        axes={"target_sparsity_pct": _rungs(20.0, 20)},
        seeds=tuple(range(10)),
        controls=("reinit", "random_sparse"),
        if_possible=("controls",),
        endpoint="early_stop_test_accuracy",
        margin_pp=0.2,
        published={
            "lenet_early_stop_21": 10.0, "lenet_accuracy_13": 0.0, "lenet_back_to_dense_3.6": 0.2,
            "lenet_reinit_speed_21": 0.5, "lenet_reinit_accuracy_21": 0.2, "lenet_reinit_falls_below": 2.0,
            "lenet_tickets_fall_below": 2.0,
        },
    )  # fmt: skip


def mnist_supermask() -> Sweep:
    """Untrained LeNet-300-100 under masks alone, on MNIST: the networks and masks that `analysis supermasks` measures.

    Source: Zhou et al., arXiv 1905.01067, and their code: dense networks as in arXiv 1803.03635 (see mnist_lenet), from
    whose final and initial weights each criterion of the paper chooses masks in one shot. Masks over rounds (not in the
    paper) are those of the tickets here, by each criterion that looks at final weights; a level is three of the
    paper's rounds: 48.8 % of the weights, 27.1 % of the output layer. Five seeds.
    When it has run: python -m analysis supermasks RUN --data-root DIR. It lays each mask over the initial weights and
    over constants with their signs, beside random masks of equal layer densities and the majority class.
    Differs from the paper: pixels are normalised by mean and standard deviation (in its code: divided by 255); the
    sparsity is chosen on validation images and judged on test images.
    250 tickets and 5 dense trials, 55,275 epochs, of which 14,025 are distinct and trained; the dense trials alone are
    275. Cost: 1.1 seconds an epoch on one core, so two hours on two cores; 300 MB of states.
    """
    return Sweep(
        name="mnist_supermask",
        claim="What does an untrained LeNet-300-100 get right on MNIST under a mask alone?",
        base={
            "dataset": "mnist", "model": "lenet_300_100", "batch_size": 60, "lr": 1.2e-3, "beta2": 0.999, "eps": 1e-8,
            "weight_decay": 0.0, "epochs": 55, "prune_rate_pct": 48.8, "output_prune_rate_pct": 27.1,
            "rewind_epoch": 0,
        },
        axes={"criterion": OF_FINAL_WEIGHTS, "target_sparsity_pct": _rungs(48.8, 5)},
        published={"supermask_mnist_signed": 3.0, "supermask_mnist_raw": 3.0},
    )  # fmt: skip


def cifar10_supermask() -> Sweep:
    """Untrained Conv-2, Conv-4 and Conv-6 under masks alone, on CIFAR-10: the networks that `supermasks` measures.

    Source: as for mnist_supermask; settings of the networks from arXiv 1803.03635, fig. 2 (`PUBLISHED`). The abstract
    of the paper gives 41 % for CIFAR-10 and names no network; all three are trained here. Masks in one shot remove 10 %
    (Conv-6: 15 %) of the convolutions, 20 % of the dense and 10 % of the output layer a round.
    Masks over rounds are by large_final_same_sign alone (--criteria for others), with two levels of 48.8 % of all
    layers but the output, which loses 27.1 %. Five seeds.
    Differs from the paper: as for mnist_supermask; JPEG copies of the images, where the data folder has these;
    precision auto, bf16 on a GPU that has it.
    30 tickets and 15 dense trials, 3,030 epochs, of which 1,515 are distinct and trained; the dense trials are 505.
    Cost: minutes an epoch on one core, so not for two cores; 1.5 GB of states.
    """
    return Sweep(
        name="cifar10_supermask",
        claim="What do untrained Conv-2, Conv-4 and Conv-6 get right on CIFAR-10 under a mask alone?",
        base={
            "dataset": "cifar10", "batch_size": 60, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "layers": "all",
            "prune_rate_pct": 48.8, "output_prune_rate_pct": 27.1, "rewind_epoch": 0, "precision": "auto",
            "criterion": "large_final_same_sign",
        },
        axes={
            "model": tuple(PUBLISHED), "epochs": (27, 34, 40), "lr": (2e-4, 3e-4),
            "target_sparsity_pct": _rungs(48.8, 2),
        },
        selects=own_setting,
        published={"supermask_cifar10_signed": 3.0, "supermask_cifar10_raw": 3.0},
    )  # fmt: skip


# Criteria of Zhou et al., arXiv 1905.01067, whose masks depend on how the network was trained
OF_FINAL_WEIGHTS = (
    "large_final", "small_final", "large_init_large_final", "small_init_small_final", "magnitude_increase", "movement",
    "large_final_same_sign", "large_final_diff_sign", "magnitude_increase_same_sign", "magnitude_increase_diff_sign",
)  # fmt: skip


def _rungs(rate_pct: float, n_levels: int) -> tuple[float, ...]:
    """The sparsities of levels 1 to `n_levels`, percent with two decimals, of imp at this rate."""
    return tuple(round(float(100 * sparsity), 2) for sparsity in rungs(rate_pct, n_levels))


RECIPES: dict[str, Callable[[], Sweep]] = {
    "digits": digits, "digits_tutorial": digits_tutorial, "pets_tutorial": pets_tutorial, "mnist_lenet": mnist_lenet,
    "mnist_supermask": mnist_supermask, "cifar10_supermask": cifar10_supermask,
}  # fmt: skip


def find_recipe(name: str) -> Sweep:
    """The sweep of a recipe, or of a custom function named as `package.module:function`. Raises `UserError`."""
    return make("recipe", name, RECIPES, Sweep)
