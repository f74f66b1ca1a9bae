"""The schema of published.parquet: what papers have published, and whether a run agrees."""

from __future__ import annotations

from analysis.tables.columns import BOOL, FLOAT, INT, TEXT, column, table_schema

HELD = HOLDS, FAILS, OPEN, ABSENT = ("agrees", "disagrees", "undecided", "not in this run")
_CSV, _HELD, _MARGIN = "results/published", "analysis.published.holding", "that of margin_unit"

PUBLISHED = table_schema("published", "one row for each claim of a paper that the plan names, and ladder that it is "
                         "held against; empty if the plan names none", [
    column("run", TEXT, "name", "folder of the run", "name of the run", nullable=False),
    column("claim", TEXT, "name", _CSV, "name of the claim", nullable=False),
    column("sentence", TEXT, "text", _CSV, "what the paper says", nullable=False),
    column("paper", TEXT, "name", _CSV, "arXiv id, or the name of a source without one"),
    column("place", TEXT, "text", _CSV, "figure, table or section of the paper"),
    column("arm", TEXT, "name", _CSV, "ticket, dense, or the name of a control or baseline", nullable=False),
    column("against", TEXT, "name", _CSV, "what the arm is compared with; null: nothing"),
    column("quantity", TEXT, "name", _CSV, "accuracy, accuracy_difference (arm minus against), early_stop_change (of "
           "iterations, arm against the other), early_stop_ratio (the same as a ratio), falls_below (the most weights "
           "from which on the arm is below the other)", nullable=False),
    column("at", TEXT, "name", _CSV, "whose accuracy counts: end or early_stop; null: it is of the early stop itself"),
    column("network", TEXT, "name", _CSV, "network, by its name in this project; null: any"),
    column("data", TEXT, "name", _CSV, "data set"),
    column("images", TEXT, "name", _CSV, "test images: same as the paper's, or other; then the interval of a "
           "difference in accuracy is over seeds and images"),
    column("fields", TEXT, "text", _CSV, "values of spec fields that the tickets must have"),
    column("ladder", TEXT, "name", "computed from trial", "ladder that it is held against; null: not in this run"),
    column("group", TEXT, "name", "computed from trial", "its group of tickets; null: of all levels, or none"),
    column("weights_left_pct", FLOAT, "per cent (0..100)", _CSV, "weights left where it was published; null: not said"),
    column("weights_left_here_pct", FLOAT, "per cent (0..100)", _HELD, "weights left at the nearest level of the run"),
    column("relation", TEXT, "name", _CSV, "equals; more_than or less_than for a published bound", nullable=False),
    column("published", FLOAT, "that of the column unit", _CSV, "the published figure", nullable=False),
    column("here", FLOAT, "that of the column unit", _HELD, "the same in this run"),
    column("unit", TEXT, "name", _CSV, "% (percent), pp (percentage points), times, or % left (weights left, percent)"),
    column("spread", FLOAT, "that of the column unit", _CSV, "published spread; null: none"),
    column("spread_kind", TEXT, "name", _CSV, "sd or se (standard deviation or error), ci95 (half a 95 % interval), "
           "range"),
    column("n_published", INT, "trials", _CSV, "published number of trials; null: not known"),
    column("is_constant", BOOL, "true or false", _HELD, "whether the published figure counts as a constant, because "
           "its spread or number of trials is not known"),
    column("how_read", TEXT, "text", _CSV, "how the figure was read: quoted from text, table, or figure by eye"),
    column("n", INT, "pairs", _HELD, "seeds in this run with an outcome on both sides; over all levels the least"),
    column("difference", FLOAT, _MARGIN, _HELD, "here minus published"),
    column("ci_low", FLOAT, _MARGIN, "analysis.stats.equivalence", "lower end of its two-sided interval over seeds, "
           "see images; null: unbounded, or not known"),
    column("ci_high", FLOAT, _MARGIN, "analysis.stats.equivalence", "upper end of that interval"),
    column("confidence", FLOAT, "probability", "plan.json: alpha", "of that interval: 1 - 2 alpha"),
    column("margin", FLOAT, _MARGIN, "plan.json: published", "how far the run may be off and still agree",
           nullable=False),
    column("margin_unit", TEXT, "name", _HELD, "pp, times, or rounds (of pruning 20 % of what is left)",
           nullable=False),
    column("result", TEXT, "name", _HELD, f"one of {', '.join(HELD)}", nullable=False),
    column("why", TEXT, "text", _HELD, "the reason in words", nullable=False),
])  # fmt: skip
