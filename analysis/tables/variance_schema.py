"""The schema of variances.parquet: initialisation against data order."""

from __future__ import annotations

from analysis.tables.columns import FLOAT, INT, TEXT, column, table_schema

_FROM = "analysis.stats.two_way"
_PARTS = {
    "init": "the seed of the initialisation", "order": "the order seed",
    "both": "both together, with one trial for each pair of them: interaction, and what neither determines",
}  # fmt: skip

VARIANCES = table_schema("variances", "one row for each group whose seeds and order seeds are crossed, and one for its "
                         "differences to dense; empty in other runs", [
    column("run", TEXT, "name", "folder of the run", "name of the run", nullable=False),
    column("group", TEXT, "name", "computed from trial", "group of trials", nullable=False),
    column("role", TEXT, "name", "plan.json: role", "what its trials are in the run"),
    column("endpoint", TEXT, "name", "plan.json: endpoint", "column of trials whose variance it is"),
    column("of", TEXT, "name", "computed", "trials, or differences to dense of the same seed and order seed"),
    column("n_init", INT, "seeds", "computed", "seeds of the initialisation that have all these order seeds"),
    column("n_order", INT, "order seeds", "computed", "order seeds that each of these seeds has"),
    column("n_left_out", INT, "trials", "computed", "trials of the group that are not counted: not crossed, or of a "
           "seed of which a trial is not finished"),
    column("n_diverged", INT, "trials", "computed", "trials that diverged, which count at chance accuracy"),
    column("mean_pp", FLOAT, "percentage points", "computed", "mean over the counted trials"),
    *(column(f"var_{name}", FLOAT, "percentage points squared", _FROM, f"variance due to {words}; unbiased, so it may "
             "be negative") for name, words in _PARTS.items()),
    *(column(f"sd_{name}_pp", FLOAT, "percentage points", _FROM, f"its square root, 0 if it is negative: {words}")
      for name, words in _PARTS.items()),
    *(column(f"share_{name}", FLOAT, "part (0..1)", _FROM, f"part of the sum of the three, negative ones as 0: "
             f"{words}; null if all trials are equal") for name, words in _PARTS.items()),
])  # fmt: skip
