"""The page of a summary."""

import re
from urllib.parse import unquote

import pytest

from ser_peft.evaluation.votes import AMBIGUITY
from ser_peft.report.summary_page import render_summary


def group(name, **changes):
    """A group as `summarize` makes it."""
    spread = {"mean": 0.6, "std": 0.1, "std_folds": None}
    return {
        "name": name, "method": name, "settings": "", "corpus": "ravdess",
        "protocol": "5-fold", "n_classes": 2, "classes": ["sad", "<b>"],
        "backbone": "/models/tiny", "runs": 2, "folds": [1, 2],
        "folds_total": 5, "seeds": [8], "ua": spread, "wa": spread,
        "macro_f1": spread, "weighted_f1": spread,
        "ccc_mean": None, "start": None, "js_distance": None,
        "ua_by_ambiguity": dict.fromkeys(AMBIGUITY),
        "missing": [], "common": 0.6, "missing_classes": [],
        "points": [
            {"fold": f, "seed": 8, "score": 0.5 + f / 10,
             "file": f"{name}/{f}/results.json"}
            for f in (1, 2)
        ],
        "pooled": {"confusion": [[1231, 2], [3, 4]], "ua": 0.6,
                   "ua_ci95": [0.5, 0.7]},
        "trainable_parameters": {"adapter": 98765, "head": 10},
        "train_seconds": 60.0, "step_seconds": 0.25, "model_bytes": 1_500_000,
    } | changes  # fmt: skip


@pytest.fixture
def summary():
    """Two methods of one corpus, one of another without predictions."""
    bare = {"confusion": [[1, 2], [3, 4]], "ua": 0.6, "ua_ci95": None,
            "ua_ci95_reason": "2 speakers, 4 are needed"}  # fmt: skip
    compared = {
        "corpus": "ravdess", "protocol": "5-fold", "n_classes": 2,
        "first": "lora", "second": "full", "runs": 2, "folds": [1, 2],
        "seeds": [8], "difference": 0.0321, "ci95": [-0.01, 0.05], "p": 0.0004,
        "speakers": 24,
    }  # fmt: skip
    return {
        "groups": [
            group("lora"),
            group("full", step_seconds=None),
            group("probe", corpus="demo", pooled=bare),
        ],
        "comparisons": [compared],
        "warnings": ["probe & <lora>: not compared"],
    }


def words(page):
    """The page's text, tables row by row."""
    text = re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL)
    text = re.sub(r"</tr>", "\n", re.sub(r"\s+", " ", text))
    return re.sub(r" +", " ", re.sub(r"<[^>]*>", " ", text))


def test_says_what_the_summary_says(summary):
    page = render_summary(summary)
    text = words(page)
    assert "summary of 6 runs" in page
    row = "60.0 ± 10.0 " * 4 + "2 1,2 of 5 1 98,765 10 1.50"
    assert f" lora {row} 0.25 60" in text and f" full {row} – 60" in text
    assert "backbone tiny" in text and "/models" not in text
    assert "lora full +3.2 -1.0 to +5.0 &lt;0.001 2 24" in text
    assert text.count("Paired comparison") == 1
    assert "Confusion: lora" in text and "1,240 test utterances" in text
    assert "probe &amp; &lt;lora&gt;: not compared" in text
    assert "There is none of probe (2 speakers, 4 are needed)." in text
    # Every run is a dot: two of each of three groups.
    assert page.count("<svg") == 5


def test_without_classes(summary):
    """Scores are CCC; there is no confusion."""
    none = dict.fromkeys(("ua", "wa", "macro_f1", "weighted_f1", "pooled"))
    ccc = {"mean": 0.456, "std": None, "std_folds": None}
    bare = group("lora", n_classes=0, classes=[], ccc_mean=ccc, **none)
    page = render_summary(summary | {"groups": [bare], "comparisons": []})
    text = words(page)
    assert "CCC of every run" in text and " lora 0.456 2" in text
    assert page.count("<svg") == 1 and "UA %" not in text


def test_needs_nothing_else(summary):
    page = render_summary(summary)
    for word in ("<script", "http:", "https:", "<link", "<img"):
        assert word not in page
    assert set(re.findall(r"url\((.)", page)) == {"#"}
    # Names are text, not markup.
    assert "sad, &lt;b&gt;" in page and "sad, <b>" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_one_row_a_method_with_its_backbone_where_they_differ(summary):
    summary["groups"][1]["backbone"] = "microsoft/wavlm-base"
    text = words(render_summary(summary))
    assert " full microsoft/wavlm-base 60.0" in text
    assert " lora tiny 60.0" in text


def test_links_the_reports_of_its_runs(summary, tmp_path, monkeypatch):
    """By relative paths: results move with their page."""
    home = tmp_path / "a folder: ä?#"
    report = home / "lora" / "2" / "report.html"
    report.parent.mkdir(parents=True)
    report.touch()
    monkeypatch.chdir(home)
    for folder in (".", home / "pages", tmp_path):
        page = render_summary(summary, folder)
        (link,) = re.findall(r'<a href="([^"]*)">report</a>', page)
        assert (home / folder / unquote(link)).resolve() == report.resolve()
        assert not re.search(r"[:#?\s]", link) and not link.startswith("/")
    assert "<a " not in render_summary(summary)
    assert " lora 2 8 70.0% report" in words(page)
