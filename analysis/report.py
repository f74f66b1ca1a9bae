"""`RUN/report.html`: question, answer, figure, verdicts, trials, how to repeat it; one file that opens offline."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from analysis.answer import answer_sentence, headlines
from analysis.evidence import MIN_PAIRS
from analysis.figures import accuracy_figure, to_svg
from analysis.frames import Frames, as_rows
from analysis.plan import RunPlan
from analysis.schema import Row
from analysis.terminal import counts_by_status, difference, seeds, status_line
from analysis.words import common_label, dense_label, percent, short_labels, signed

TEMPLATE = "report.html.jinja"
NOTHING = "–"


def report_html(frames: Frames, plan: RunPlan, run: str) -> str:
    """The page. The same tables and plan give the same text: it carries no date of its own."""
    verdicts, trials = as_rows(frames.verdicts), as_rows(frames.trials)
    compared = headlines(verdicts)
    primary = [row for row in compared if row["primary"]]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("analysis").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        run=run,
        plan=plan,
        question=plan.claim,
        answer=answer_sentence(verdicts),
        setting=common_label([row["ladder"] for row in primary]),
        endpoint=plan.rule.endpoint.replace("_", " "),
        resolution=_resolution(primary),
        min_pairs=MIN_PAIRS,
        figures={theme: inline_svg(to_svg(accuracy_figure(frames, theme)), theme) for theme in ("light", "dark")},
        primary=_verdict_view(primary),
        secondary=_verdict_view([row for row in compared if not row["primary"]]),
        status=status_line(frames),
        counts=counts_by_status(frames),
        trials=[_trial_view(row) for row in trials],
        machines=_machines(trials),
        commands=[shlex.join(command) for command in plan.commands],
        versions=sorted(plan.versions.items()),
    )


def inline_svg(svg: bytes, prefix: str) -> Markup:
    """An SVG file as an element of an HTML page.

    Without prolog, document type and metadata; ids get the prefix, so that two figures on one page do not mix; the size
    is left to the page. In HTML an inline SVG needs no namespace declarations.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", text))
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    return Markup(re.sub(r"url\(#", f"url(#{prefix}-", text))


def _verdict_view(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the page shows of each verdict, as text."""
    labels = short_labels([row["ladder"] for row in rows])
    return [
        {
            "tickets": labels[row["ladder"]], "against": dense_label(row["baseline"]).removeprefix("dense, "),
            "sparsity": f"{row['target_sparsity_pct']:g}", "seeds": seeds(row),
            "left": _text(row["sparsity_pct"], lambda value: percent(100 - value)),
            "ticket": _text(row["mean_ticket"], _accuracy), "dense": _text(row["mean_baseline"], _accuracy),
            "difference": difference(row), "g": _text(row["hedges_g"], signed),
            "verdict": row["verdict"], "kind": row["verdict"].split()[0], "why": _tied(row["why"]),
            "group": row["group"],
        }
        for row in rows
    ]  # fmt: skip


def _trial_view(row: Row) -> dict[str, Any]:
    return {
        "trial": row["trial"], "status": row["status"], "reason": row["reason"] or "",
        "sparsity": _text(row["sparsity_pct"], lambda value: f"{value:.2f}"),
        "valid": _text(row["valid_accuracy"], _accuracy), "test": _text(row["test_accuracy"], _accuracy),
        "epochs": _text(row["epochs_trained"], str),
        "seconds": _text(row["train_seconds"], lambda value: f"{value:.1f}"),
    }  # fmt: skip


def _machines(trials: Sequence[Row]) -> list[tuple[str, int]]:
    """Where the trials were trained, with counts: device, torch, Python, determinism."""
    found = Counter(
        f"{row['device']}, {row['threads']} thread{'s' * (row['threads'] != 1)}, torch {row['torch_version']}, "
        f"Python {row['python_version']}, {'' if row['deterministic'] else 'not '}deterministic"
        for row in trials
        if row["device"] is not None
    )
    return found.most_common()


def _resolution(verdicts: Sequence[Row]) -> str | None:
    known = [row["resolution"] for row in verdicts if row["resolution"] is not None]
    return f"{max(known):.2g} pp" if known else None


def _accuracy(value: float) -> str:
    return f"{100 * value:.2f}"


def _tied(text: str) -> str:
    """ "p = 0.02" kept on one line."""
    return re.sub(r"p ([=<]) ", "p\u00a0\\1\u00a0", text)


def _text(value: Any, write: Any) -> str:
    return NOTHING if value is None else write(value)
