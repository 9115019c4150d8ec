"""The page of a search."""

import pytest
from pages import HOSTILE, Page

from ser_peft.report.tuning_page import render_tuning
from ser_peft.tune.space import Choice, Range


def trial(number, state="complete", **more):
    scored = {"ua": 0.5 + number / 10, "ua_ci95": [0.4, 0.7], "seconds": 65.0,
              "start_ua": 0.45, "done": 5}  # fmt: skip
    values = {"lr": 0.001 * (number + 1), "label": HOSTILE}
    return {
        "number": number, "state": state, "parameters": values,
        "settings": {key: str(value) for key, value in values.items()},
        **scored, **more,
    }  # fmt: skip


@pytest.fixture
def study():
    """Three trials with a figure, one that failed, one that runs."""
    trials = [
        trial(0),
        trial(1, ua_ci95=None),
        trial(2, "pruned", done=2),
        {**trial(3, "fail"), "ua": None, "reason": f"failed: {HOSTILE}"},
        {"number": 4, "state": "running", "parameters": {}, "settings": {}},
    ]
    return {
        "name": HOSTILE, "corpus": "ravdess", "protocol": "peft-ser/inner",
        "seeds": [8, 16], "trainings": 5, "held_out": 5, "wanted": 9,
        "space": {"lr": Range(0.001, 0.1, log=True),
                  "label": Choice((HOSTILE, "b"))},
        "trials": trials, "best": trials[1],
        "compared": {"difference": 0.1, "ci95": [0.02, 0.2], "p": 0.0004},
        "importances": {"lr": 0.8, "label": 0.2},
    }  # fmt: skip


def test_shows_all_trials_and_fetches_nothing(study):
    page = Page(render_tuning(study))
    for words in ("50.0%", "60.0%", "70.0%", "1 min 5 s", "2 of 5", "pruned",
                  "running", "trial 3: failed:", "+10.0 points", "<0.001",
                  "3 of 9", "each counted once per seed"):  # fmt: skip
        assert words in " ".join(page.shown.split()), words
    assert len(page.images) == 4
    assert not {"script", "img", "link"}.intersection(page.tags)
    assert {link[0] for link in page.links} == {"#"}


def test_a_study_that_begins(study):
    study |= {"trials": [], "best": None, "compared": None, "importances": {}}
    page = Page(render_tuning(study))
    assert not page.images and "0 of 9" in page.shown
    study["trials"] = [trial(0, "running") | {"ua": None, "ua_ci95": None}]
    assert "running" in Page(render_tuning(study)).shown
