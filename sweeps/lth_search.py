"""Search for the best tickets with Optuna, over any axes of a trial, and show the front of accuracy against sparsity.

    python -m sweeps.lth_search [SEARCH] [--sparsity 50..97] [--lr 3e-4..3e-3:log] [--floor 90 --asha] ...

Each suggestion is trained on all seeds, with dense baselines, as trials of an ordinary run, which reuse stored
training. The study is stored in RUN/study.db, or where --study says; the results in RUN/analysis/suggestions.parquet
and pareto.svg. The same
command continues a study. Exit codes are those of `sweeps.lth_grid`.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds: a signal may come at any moment
    import sys

    from lth_trainable import nvidia, signals
    from sweeps.running import forking

    signals.install()
    nvidia.ask_ahead()
    forking.start_ahead(sys.argv[1:], signals.SIGNALS)

import json
import sys
from collections.abc import Sequence

from analysis.text import console, table_of
from lth_trainable.errors import FAILED, OK
from sweeps.cli.job import Setting, exit_code_of, finish
from sweeps.cli.search import carry_out_search, open_search
from sweeps.cli.search_options import SearchOptions, check_study_of_job, parse
from sweeps.running.submit import Where, submit
from sweeps.search.searches import SEARCHES, Search


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def command() -> int:
        options, search = parse(argv)
        return show_searches(options) if options.list else run(options, search, sys.argv[1:] if argv is None else argv)

    return exit_code_of(command)


def run(options: SearchOptions, search: Search, arguments: Sequence[str]) -> int:
    """Get suggestions and train them until the study has enough, then gather and show the results."""
    setting = Setting.of(options)
    if setting.where is Where.SUBMIT:
        check_study_of_job(options.study)
        return submit(options.target, "sweeps.lth_search", arguments)
    job = open_search(options, setting, search, ("python", "-m", "sweeps.lth_search", *arguments))
    found = carry_out_search(job, options, search)
    code = finish(job, found.summary, found.outcome)
    return FAILED if code == OK and found.outcome.failures else code


def show_searches(options: SearchOptions) -> int:
    """List the searches, one line each; with --json as an object of claims by name."""
    if options.json:
        print(json.dumps({name: search().sweep.claim for name, search in SEARCHES.items()}))
        return OK
    table = table_of("search", "suggestions", "axes", left=("axes",))
    for name, make in SEARCHES.items():
        search = make()
        axes = "; ".join(f"{field} {axis}" for field, axis in search.axes.items())
        table.add_row(name, str(search.suggestions), axes)
    console().print(table)
    return OK


if __name__ == "__main__":
    signals.run(main, kept=signals.TRAINED, goes_on=True)
