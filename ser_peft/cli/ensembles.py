"""The command that makes ensembles: ``ser-peft ensemble``."""

from pathlib import Path

from ser_peft.cli.common import (
    computing,
    encoders,
    new_command,
    say,
    write_page,
)

__all__ = ["add_commands"]


def add_commands(commands):
    """Add the command to ``ser-peft``."""
    add = new_command(commands, ensemble)
    add(
        "results", nargs="+", metavar="RUN",
        help="finished runs, folders of them (folds, seeds, settings), model "
        "folders or names of models",
    )  # fmt: skip
    add("--out", required=True, help="new folder: the model, scores, a page")
    add(
        "--test",
        help="manifests to test on, a folder or one split in it; default: the "
        "test sets of the runs",
    )  # fmt: skip
    add(
        "--trust_start", nargs="?", const="True", choices=["True", "False"],
        help="take models that have no record of the speakers they have heard",
    )  # fmt: skip
    encoders(add)
    add("--device", help="default: a GPU if there is one")


def ensemble(args):
    """Mean of runs' calibrated probabilities, tested on speakers unheard."""
    from ser_peft.evaluation.ensembles import ensembles
    from ser_peft.evaluation.results import headline
    from ser_peft.inference.card import write_card
    from ser_peft.io import write_json
    from ser_peft.report.ensemble_page import format_ensembles, render_ensembles
    from ser_peft.report.run_page import write_report

    out = Path(args.out)
    with computing(args, out) as how:
        command = how.pop("command")
        found, runs = ensembles(
            args.results,
            out,
            args.test,
            args.trust_start == "True",
            backbone=args.backbone,
            text_backbone=args.text_backbone,
            **how,
        )
        for run in runs:
            write_report(**run, command=command)
            write_card(run["folder"] / "model", run["results"])
        write_json(out / "ensemble.json", found)
        page = out / "ensemble.html"
        write_page(page, render_ensembles(found))
    print(format_ensembles(found), end="")
    for run in runs:
        say(f"{run['folder']}: test {headline(run['results'])}")
    say(f"page: {page}")
