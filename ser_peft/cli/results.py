"""Commands on finished runs: many summarized, models compared."""

from pathlib import Path

from ser_peft.cli.common import new_command, say, write_page
from ser_peft.errors import InputError

__all__ = ["add_commands", "write_summary"]


def add_commands(commands):
    """Add the commands to ``ser-peft``."""
    add = new_command(commands, summarize)
    add("results", nargs="+", help="results.json or folders")
    pair = "two methods, paired; default: all with the best"
    add("--compare", nargs=2, metavar="METHOD", help=pair)
    add("--out", help="also write this JSON file")
    add("--html", help="also write this page")

    add = new_command(commands, compare)
    run = "a finished run, or a folder of one model's folds and seeds"
    add("reference", help=run)
    add("others", nargs="+", help="the same of others, on the same test set")
    out = "folder for compare.json and compare.html (%(default)s)"
    add("--out", default="compare", help=out)
    repeats = "repetitions of each timing (%(default)s)"
    add("--repeats", type=int, default=20, help=repeats)


def summarize(args):
    """Mean and standard deviation of runs over folds and seeds."""
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
        write_page(html, render_summary(summary, Path(html).parent))


def compare(args):
    """Models beside a reference: scores, agreement, size, latency."""
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
