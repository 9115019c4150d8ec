"""Page of a search of settings."""

from ser_peft.report import tuning_figures
from ser_peft.report.cells import interval_cell, paired_cells
from ser_peft.report.rendering import duration, percent, render
from ser_peft.report.tables import lay_out

__all__ = ["render_tuning"]


def render_tuning(study):
    """Render a search as one HTML page that needs nothing else.

    Arguments
    ---------
    study : dict
        ``name`` (of the yaml), ``corpus``, ``protocol``, ``seeds``,
        ``held_out`` (number of test speakers), ``trainings`` (a trial),
        ``wanted`` (trials), ``space`` (key -> what was tried), ``trials``,
        ``best`` (one of them or None), ``compared`` (best and trial 0,
        paired; None where they are one) and ``importances`` (key -> share).
        A trial has ``number``, ``state``, ``settings`` (key -> text),
        ``parameters`` (key -> value) and, if it came so far, ``ua``,
        ``ua_ci95``, ``start_ua``, ``seconds``, ``done`` (trainings) and
        ``reason`` (of a failure).

    Returns
    -------
    str
        The page: styles and figures inside, no script, no network.
    """
    scored = [
        trial
        for trial in study["trials"]
        if trial["state"] in ("complete", "pruned")
    ]
    best, pictures = study["best"], {}
    if best:
        number = best["number"]
        pictures["history"] = (
            tuning_figures.history_figure(scored, number),
            f"UA of {len(scored)} trials in their order; the table has them",
        )
        for i, (key, part) in enumerate(study["space"].items()):
            pictures[f"slice{i}"] = (
                tuning_figures.slice_figure(scored, number, key, part),
                f"UA of {len(scored)} trials by {key}; the table has them",
            )
    if study["importances"]:
        shares = (f"{k} {v:.0%}" for k, v in study["importances"].items())
        pictures["importance"] = (
            tuning_figures.importance_figure(study["importances"]),
            f"Share of each key in the spread of UA: {', '.join(shares)}",
        )
    head, rows = lay_out(study["trials"], _columns(study))
    return render(
        "tuning",
        pictures,
        s=study,
        own=next((t for t in scored if t["number"] == 0), None),
        best_rows=[
            [key, best["settings"][key] or "null", str(part)]
            for key, part in study["space"].items()
            if best
        ],
        head=head,
        rows=rows,
        left=2 + len(study["space"]) if rows else 1,
        paired=study["compared"] and paired_cells(study["compared"]),
        done=len(scored),
        failures=[
            f"trial {trial['number']}: {trial['reason']}"
            for trial in study["trials"]
            if trial.get("reason")
        ],
    )


def _columns(study):
    """Name -> cell of a trial."""

    def setting(key):
        return lambda trial: trial["settings"].get(key, "–") or "null"

    def state(trial):
        if study["best"] and trial["number"] == study["best"]["number"]:
            return "best"
        return trial["state"]

    def interval(trial):
        ends = trial.get("ua_ci95")
        return interval_cell({"ci95": ends}, "{:.1f}") if ends else "–"

    return {
        "trial": lambda trial: str(trial["number"]),
        "state": state,
        **{key: setting(key) for key in study["space"]},
        "UA": lambda trial: percent(trial.get("ua")),
        "95 % interval": interval,
        "start": lambda trial: percent(trial.get("start_ua")),
        "time": lambda trial: duration(trial.get("seconds", 0)),
        "trainings": lambda t: f"{t.get('done', 0)} of {study['trainings']}",
    }
