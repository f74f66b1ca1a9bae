"""The report of a run, `RUN/report.html`: one page that opens offline.

It has the question, the answer, the figures, the verdicts, the trials, and the commands to repeat the run.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from xml.etree import ElementTree

import pyarrow.compute as pc
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from analysis.figures.gallery import Material, drawn, read_suggestions
from analysis.figures.style import COLOURS, NARROW, THEMES, to_svg
from analysis.labels import common_label
from analysis.published.points import SUPERMASK
from analysis.report.lines import NOTHING, samples
from analysis.report.profile import profile_view
from analysis.report.proportion import again, margin
from analysis.report.published import how_it_was_held, published_cells, said
from analysis.report.set_up import set_up
from analysis.report.terminal import is_other_claim, status_line
from analysis.report.variances import variance_view
from analysis.report.views import claim_lines, trial_cells, verdict_lines
from analysis.report.weights import weights_said
from analysis.supermasks.summary import arms
from analysis.supermasks.words import sentences
from analysis.tables.index import REPORT
from analysis.tables.parquet import Frames
from analysis.tables.run_plan import RunPlan
from analysis.tables.schema import Row
from analysis.text import plural
from analysis.verdicts.answer import about_initialisation, answer_sentence
from analysis.verdicts.groups import TICKET
from analysis.verdicts.headlines import headlines, of_tickets
from analysis.verdicts.questions import MIN_PAIRS
from analysis.verdicts.rows import LADDER_CLAIM
from lth_trainable.safe_text import printable
from lth_trainable.store.store import Store

TEMPLATE = "report.html.jinja"
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


@dataclass(frozen=True, kw_only=True)
class Savings:
    """Totals over all trials with a record. alone: as if each trial had trained its whole chain by itself. own: what
    the trials really trained, in however many attempts. flops_*: theoretical multiply-adds of training all chains; None
    if unknown.
    """

    n_trials: int
    epochs_alone: int
    epochs_distinct: int
    epochs_own: int
    seconds_alone: float
    seconds_own: float
    flops_dense: float | None
    flops_sparse: float | None

    @property
    def epochs_saved_pct(self) -> float:
        """Percentage of the requested epochs that did not have to be trained; 0 if none were requested."""
        return 100 * (1 - self.epochs_own / self.epochs_alone) if self.epochs_alone else 0.0


def report_bytes(store: Store, run: str, frames: Frames, plan: RunPlan) -> bytes:
    """The page as it is written; for a search, with its stored suggestions."""
    return report_html(frames, plan, run, read_suggestions(store, run)).encode()


def write_report(store: Store, run: str, page: bytes) -> None:
    """Write `RUN/report.html`."""
    store.write(f"{run}/{REPORT}", page)


def report_html(frames: Frames, plan: RunPlan, run: str, suggestions: Sequence[Row] = ()) -> str:
    """The page as text. It has no date, so the same tables, plan and suggestions give the same text."""
    verdicts, trials = frames.rows("verdicts"), frames.rows("trials")
    compared = headlines(verdicts)
    primary, baselines = of_tickets(verdicts), [row for row in compared if row["role"] != TICKET]
    work = savings(frames)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.finalize = _safe
    template = environment.from_string(files("analysis.report").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        run=run,
        plan=plan,
        question=plan.claim,
        answer=answer_sentence(verdicts),
        untrained=_untrained(frames),
        initialisation=about_initialisation(verdicts),
        set_up=set_up(trials, sorted(plan.versions.items())),
        setting=common_label([row["ladder"] for row in primary]),
        endpoint=plan.rule.endpoint.replace("_", " "),
        margin=margin(primary) if primary else f"margin {plan.rule.margin_pp:g} pp",
        again=again(primary),
        min_pairs=MIN_PAIRS,
        samples=samples(primary),
        images=any(row["n_images"] for row in primary),
        themes={name: _colours(name) for name in COLOURS},
        figures=_figures(Material(frames=frames, suggestions=suggestions)),
        primary=verdict_lines(primary),
        secondary=verdict_lines([row for row in compared if row["role"] == TICKET and not row["primary"]]),
        baselines=verdict_lines(baselines),
        claims=claim_lines([row for row in verdicts if is_other_claim(row) or row["claim"] == LADDER_CLAIM]),
        published=[published_cells(row) for row in frames.rows("published")],
        about_published=_about_published(frames),
        variances=variance_view(frames.rows("variances")),
        work=_work_view(work, len(plan.trials)),
        flops=_flops(work),
        profile=profile_view(trials),
        status=status_line(frames),
        weights=weights_said(frames),
        trials=[trial_cells(row) for row in trials],
        machines=_machines(trials),
        commands=[shlex.join(command) for command in plan.commands],
        versions=sorted(plan.versions.items()),
    )


def _untrained(frames: Frames) -> list[str]:
    """The answer of a run whose question is about untrained networks: all that it is held against are such."""
    held = frames.rows("published")
    if not held or any(row["quantity"] != SUPERMASK for row in held):
        return []
    return sentences(arms(frames.rows("supermasks")))


def _about_published(frames: Frames) -> str:
    rows = frames.rows("published")
    return f"{said(rows).capitalize()}. {how_it_was_held(rows)}" if rows else ""


def _safe(value: Any) -> Any:
    """A value of the page: a text of a plan, a record or an error without anything that hides or reorders it."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def inline_svg(svg: bytes, prefix: str) -> Markup:
    """Turn an SVG file into an element for an HTML page.

    Metadata and namespaces go, as HTML does not need them, and so does the size, which the page decides. Ids get the
    prefix, so that figures on one page do not share ids. Colours of the light theme become CSS variables (`_colours`),
    so that one drawing works in light mode, in dark mode and on paper.
    """
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{SVG}metadata"):
        root.remove(metadata)
    for name in ("width", "height"):
        del root.attrib[name]
    for element in root.iter():
        element.tag = _in_html(element.tag)
        element.attrib = {_in_html(key): _value(key, value, prefix) for key, value in element.items()}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _in_html(name: str) -> str:
    """The name of a tag or attribute in HTML: without its namespace."""
    return name.replace(XLINK, "xlink:").removeprefix(SVG)


def _value(name: str, value: str, prefix: str) -> str:
    """The value of an attribute in HTML: ids with the prefix, colours as CSS variables."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == f"{XLINK}href":
        return value.replace("#", f"#{prefix}-")
    value = value.replace("url(#", f"url(#{prefix}-")
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), value)


def _colours(theme: str) -> dict[str, str]:
    """CSS variable -> colour, for every colour of the figures."""
    colours = THEMES[theme]
    named = {name: getattr(colours, name) for name in ("text", "muted", "grid", "background")}
    named |= {f"series-{i}": colour for i, colour in enumerate(colours.series)}
    return {f"--figure-{name}": colour for name, colour in named.items()}


_VARIABLES = {colour: f"var({name})" for name, colour in _colours("light").items()}


def _figures(material: Material) -> list[dict[str, Any]]:
    """Each figure twice, for a wide and for a narrow screen; the page shows one of them."""
    narrow = {name: inline_svg(to_svg(figure), f"{name}-narrow") for name, _, figure in drawn(material, NARROW)}
    return [
        {
            "name": name, "title": drawing.title, "caption": drawing.caption(material.frames),
            "svg": inline_svg(to_svg(figure), name), "narrow": narrow[name],
        }
        for name, drawing, figure in drawn(material, "light")
    ]  # fmt: skip


def savings(frames: Frames) -> Savings:
    """Add up what the trials trained. Distinct epochs differ in the trial that trained them, the level or the epoch.

    Epochs, not the trials' `epochs_trained`: that leaves out what a trial had trained before it was interrupted.
    """
    trials = frames.trials[frames.trials["epochs_total"].notna()]
    epochs = frames.tables["epochs"].select(["trial", "trained_by", "level", "epoch", "seconds"])
    own = epochs["seconds"].filter(pc.equal(epochs["trial"], epochs["trained_by"])).to_numpy()
    known = trials["flops_dense"].notna()
    return Savings(
        n_trials=len(trials),
        epochs_alone=int(trials["epochs_total"].sum()),
        epochs_distinct=epochs.group_by(["trained_by", "level", "epoch"]).aggregate([]).num_rows,
        epochs_own=len(own),
        seconds_alone=float(trials["seconds_total"].sum()),
        seconds_own=float(own.sum()),
        flops_dense=float(trials.loc[known, "flops_dense"].sum()) if known.any() else None,
        flops_sparse=float(trials.loc[known, "flops_sparse"].sum()) if known.any() else None,
    )


def _work_view(work: Savings, planned: int) -> list[tuple[str, str, str]]:
    """The rows of the table of savings: what, each trial alone, this run."""
    return [
        ("trials", f"{planned:,} planned", f"{work.n_trials:,} recorded"),
        ("epochs", f"{work.epochs_alone:,}", f"{work.epochs_own:,} ({work.epochs_saved_pct:.0f} % saved)"),
        ("distinct epochs", NOTHING, f"{work.epochs_distinct:,}"),
        ("seconds of training", f"{work.seconds_alone:,.0f}", f"{work.seconds_own:,.0f}"),
    ]


def _flops(work: Savings) -> str | None:
    """Theoretical cost of training all chains, dense and sparse, in words; None if unknown."""
    if work.flops_dense is None or work.flops_sparse is None or not work.flops_dense:
        return None
    share = 100 * work.flops_sparse / work.flops_dense
    return f"{work.flops_dense:.2e} multiply-adds dense, {work.flops_sparse:.2e} sparse ({share:.0f}\u00a0%)"


def _together(row: Row) -> str:
    return f", {row['replicas']} networks as one" if (row["replicas"] or 1) > 1 else ""


def _machines(trials: Sequence[Row]) -> list[str]:
    """Where the trials were trained (device, torch, Python, determinism), with counts."""
    found = Counter(
        f"{row['device']}, {plural(row['threads'], 'thread')}, torch {row['torch_version']}, "
        f"Python {row['python_version']}, {'' if row['deterministic'] else 'not '}deterministic{_together(row)}"
        for row in trials
        if row["device"] is not None
    )
    return [f"{plural(count, 'trial')} on {machine}" for machine, count in found.most_common()]
