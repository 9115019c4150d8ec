"""Files of a study: its table, its page, and the best settings as a yaml."""

import csv
import json
import shlex
from pathlib import Path

from ser_peft.io import atomic_path
from ser_peft.report.tuning_page import render_tuning
from ser_peft.settings.finished import FREE
from ser_peft.settings.flags import split
from ser_peft.settings.yamls import OPTIONAL, parse_yaml
from ser_peft.storage.cells import as_cell
from ser_peft.tune.merging import with_settings
from ser_peft.tune.outcome import compared

__all__ = ["shown", "write_study"]

_MORE = {"start_ua": "start_ua", "seconds": "seconds", "done": "trainings"}
"""Entries of a trial -> their columns."""


def write_study(study, search):
    """Write ``trials.csv``, ``best.yaml`` and ``tune.html`` of a study.

    Arguments
    ---------
    study : ser_peft.tune.study.Study
        Held alone by this process.
    search : ser_peft.tune.search.Search
        What it searches.

    Returns
    -------
    dict
        What the page shows, see
        `ser_peft.report.tuning_page.render_tuning`.
    """
    trials = study.trials()
    for trial in trials:
        params = trial.pop("params")
        trial["parameters"] = params
        trial["settings"] = {
            key: part.text(params[key])
            for key, part in search.space.items()
            if key in params
        }
    complete = [trial for trial in trials if trial["state"] == "complete"]
    best = max(complete, key=lambda trial: trial["ua"], default=None)
    table = {
        "name": Path(search.path).stem,
        "corpus": search.corpus,
        "protocol": search.protocol.name,
        "seeds": search.seeds,
        "trainings": search.protocol.folds * len(search.seeds),
        "held_out": len(search.protocol.held_out),
        "wanted": study.wanted,
        "space": search.space,
        "trials": trials,
        "best": best,
        "compared": None,
        "importances": study.importances(),
    }
    _write_csv(study.folder / "trials.csv", table)
    if best:
        runs = search.trainings(best["number"], best["settings"])
        # With several processes trial 0 may be at work still.
        if best["number"] and trials[0]["state"] == "complete":
            table["compared"] = compared(
                runs, search.trainings(0, {}), search.protocol.held_out
            )
        with atomic_path(study.folder / "best.yaml") as tmp:
            tmp.write_text(_best_yaml(search, best, runs[0]), encoding="utf-8")
    with atomic_path(study.folder / "tune.html") as tmp:
        page = render_tuning(table)
        tmp.write_text(page, encoding="utf-8", errors="backslashreplace")
    return table


def shown(settings):
    """Settings in one line.

    Example
    -------
    >>> shown({"adapter_lr": "0.001", "init_from": ""})
    'adapter_lr 0.001, init_from null'
    """
    return ", ".join(
        f"{key} {text or 'null'}" for key, text in settings.items()
    )


def _write_csv(path, table):
    head = "trial state ua ua_low ua_high".split()
    with (
        atomic_path(path) as tmp,
        open(tmp, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [*head[:2], *table["space"], *head[2:], *_MORE.values(), "reason"]
        )
        for trial in table["trials"]:
            settings = [trial["settings"].get(key) for key in table["space"]]
            scores = [trial.get("ua"), *(trial.get("ua_ci95") or (None, None))]
            more = [trial.get(key) for key in _MORE]
            writer.writerow(
                [
                    trial["number"],
                    trial["state"],
                    *(text and as_cell(text) for text in settings),
                    *scores,
                    *more,
                    as_cell(trial.get("reason", "")),
                ]
            )


def _best_yaml(search, best, run):
    """The recipe's yaml with the best settings, and where they are from."""
    text = Path(search.path).read_text(encoding="utf-8")
    tree = parse_yaml(text, search.path)
    settings, flags = {}, []
    for key, value in split(search.overrides)[1]:
        if key in FREE or key not in {*tree, *OPTIONAL, "method"}:
            flags.append(f"--{key}" + ("" if value is None else f"={value}"))
        elif isinstance(tree.get(key), dict):
            settings |= _flat(key, parse_yaml(f"{key}: {value}", key)[key])
        else:
            settings[key] = value
    if best["number"]:
        settings |= best["settings"]
    ends = best["ua_ci95"]
    interval = f" ({ends[0]:.1%} to {ends[1]:.1%})" if ends else ""
    point = dict(zip(("fold", "seed"), run.folder.parts[-2:], strict=True))
    point["fold"] = point["fold"].removeprefix("fold")
    again = [
        "python", search.script.name, "best.yaml", *flags,
        f"--protocol={search.protocol.name}",
        *(f"--{key}={value}" for key, value in point.items()),
    ]  # fmt: skip
    name = Path(search.path).name
    comment = (
        f"{name} with the settings of trial {best['number']} of "
        f"{search.folder}:\n{shown(best['settings'])}.\n"
        f"UA {best['ua']:.1%}{interval} on the valid speakers of "
        f"{search.protocol.name}, pooled.\n"
        f"Its first training once more:\n{shlex.join(again)}"
    )
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    return f"{lines}\n{with_settings(text, settings)}"


def _flat(key, value):
    """A mapping as texts, their keys with dots."""
    if not isinstance(value, dict):
        return {key: json.dumps(value)}
    parts = (_flat(f"{key}.{name}", part) for name, part in value.items())
    return {k: text for part in parts for k, text in part.items()}
