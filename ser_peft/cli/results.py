"""Commands on finished runs: many summarized, models compared."""

from pathlib import Path

from ser_peft.cli.common import new_command, say, write_page
from ser_peft.errors import InputError

__all__ = ["add_commands", "write_summary"]


def add_commands(commands):
    """Add the commands to ``ser-peft``."""
    add = new_command(
        commands, summarize, "summarize",
        "mean and standard deviation of runs over folds and seeds",
    )  # fmt: skip
    add("results", nargs="+", help="results.json or folders")
    add(
        "--compare", nargs=2, metavar="METHOD",
        help="two methods, paired; default: all with the best",
    )  # fmt: skip
    add("--out", help="also write this JSON file")
    add("--html", help="also write this page")

    add = new_command(
        commands, compare, "compare",
        "models beside a reference: scores, agreement, size, latency",
    )  # fmt: skip
    add(
        "reference",
        help="a finished run, or a folder of one model's folds and seeds",
    )
    add("others", nargs="+", help="the same of others, on the same test set")
    add(
        "--out", default="compare",
        help="folder for compare.json and compare.html (%(default)s)",
    )  # fmt: skip
    add(
        "--repeats", type=int, default=20,
        help="repetitions of each timing (%(default)s)",
    )  # fmt: skip


def summarize(args):
    """Print the summary of runs; write it where told to."""
    from ser_peft.evaluation.summary import summarize
    from ser_peft.report.tables import format_summary

    summary = summarize(args.results, args.compare)
    print(format_summary(summary), end="")
    write_summary(summary, args.out, args.html)


def write_summary(summary, out, html):
    """Write a summary as JSON and as a page, each if it has a path."""
    from ser_peft.io import write_json
    from ser_peft.report.summary_page import render_summary

    if out:
        write_json(out, summary)
    if html:
        write_page(html, render_summary(summary))


def compare(args):
    """Compare models and write the page."""
    from ser_peft.evaluation.compare import compare
    from ser_peft.io import write_json
    from ser_peft.report.comparison_page import (
        format_comparison,
        render_comparison,
    )

    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats}: give 1 or more")
    found = compare([args.reference, *args.others], args.repeats)
    print(format_comparison(found), end="")
    write_json(Path(args.out) / "compare.json", found)
    page = Path(args.out) / "compare.html"
    write_page(page, render_comparison(found))
    say(f"page: {page}")
