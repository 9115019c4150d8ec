"""Runs gathered from folders, averaged by hand."""

import json
import statistics

import pytest

from ser_peft.errors import InputError
from ser_peft.evaluation.summary import format_table, summarize


@pytest.fixture
def runs(tmp_path):
    """Write runs, each given as what differs from a plain one."""

    def write(*changes, folder="runs"):
        for i, change in enumerate(changes):
            run = {
                "corpus": "RAVDESS",
                "protocol": "5-fold",
                "protocol_sha": f"sha{change.get('fold', 1)}",
                "fold": 1,
                "folds_total": 5,
                "seed": 0,
                "backbone": "wavlm",
                "method": "LoRA",
                "classes": list("abcd"),
                "ua": 0.5,
                "wa": 0.6,
                "macro_f1": 0.4,
                "trainable_parameters": {"adapter": 1000, "head": 10},
                "train_seconds": 60.0,
            }
            path = tmp_path / folder / str(i) / "results.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({**run, **change}))
        return tmp_path / folder

    return write


def test_mean_and_std_over_folds_by_hand(runs):
    folder = runs(
        {"fold": 1, "ua": 0.6, "train_seconds": 10},
        {"fold": 2, "ua": 0.7, "train_seconds": 20},
        {"fold": 5, "ua": 0.8, "train_seconds": 60},
    )
    (group,) = summarize([folder])["groups"]
    assert group["ua"] == {
        "mean": pytest.approx(0.7),
        "std": pytest.approx(0.1),
        "std_folds": None,
    }
    assert group["runs"] == 3 and group["folds"] == [1, 2, 5]
    assert group["folds_total"] == 5
    assert group["train_seconds"] == 30
    assert group["trainable_parameters"] == {"adapter": 1000, "head": 10}
    table = format_table(summarize([folder]))
    assert "70.0 ± 10.0" in table and "1,2,5 of 5" in table


def test_several_seeds_are_averaged_within_a_fold_first(runs):
    values = {(1, 0): 0.5, (1, 1): 0.7, (2, 0): 0.8, (2, 1): 0.8}
    folder = runs(
        *({"fold": f, "seed": s, "ua": ua} for (f, s), ua in values.items())
    )
    (group,) = summarize([folder])["groups"]
    assert group["seeds"] == [0, 1] and group["runs"] == 4
    assert group["ua"]["mean"] == pytest.approx(0.7)
    assert group["ua"]["std"] == pytest.approx(
        statistics.stdev(values.values())
    )
    # fold means 0.6 and 0.8
    assert group["ua"]["std_folds"] == pytest.approx(0.2 / 2**0.5)
    assert "70.0 ± 14.1 (14.1)" in format_table(summarize([folder]))


def test_groups_are_kept_apart_probe_first_then_best(runs):
    folder = runs(
        {"method": "adapter", "ua": 0.7},
        {"method": "LoRA", "ua": 0.8},
        {"method": "linear probe", "ua": 0.6},
        {"method": "LoRA", "ua": 0.9, "backbone": "hubert"},
        {"corpus": "CREMA-D", "ua": 0.1},
        {"classes": list("abcdef"), "protocol_sha": "six", "ua": 0.3},
    )
    summary = summarize([folder])
    assert [
        (g["corpus"], g["n_classes"], g["backbone"], g["method"])
        for g in summary["groups"]
    ] == [
        ("CREMA-D", 4, "wavlm", "LoRA"),
        ("RAVDESS", 4, "wavlm", "linear probe"),
        ("RAVDESS", 4, "hubert", "LoRA"),
        ("RAVDESS", 4, "wavlm", "LoRA"),
        ("RAVDESS", 4, "wavlm", "adapter"),
        ("RAVDESS", 6, "wavlm", "LoRA"),
    ]
    assert summary["warnings"] == []
    json.dumps(summary)
    table = format_table(summary)
    assert table.count("## ") == 3
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert all(row.count("|") == 12 for row in rows)


def test_one_run_has_no_spread(runs):
    (group,) = summarize([runs({})])["groups"]
    assert group["ua"]["std"] is None
    assert "±" not in format_table({"groups": [group], "warnings": []})


def test_a_file_given_twice_counts_once(runs):
    folder = runs({})
    paths = [folder, folder / "0", folder / "0" / "results.json"]
    summary = summarize(paths)
    assert summary["groups"][0]["runs"] == 1 and not summary["warnings"]


def test_warns_of_repeated_fold_and_seed(runs):
    summary = summarize([runs({}, {"ua": 0.7}, {"fold": 2})])
    (warning,) = summary["warnings"]
    assert "fold 1, seed 0" in warning and "LoRA on wavlm" in warning
    assert f"warning: {warning}" in format_table(summary)


def test_warns_of_unequal_models(runs):
    other = {"adapter": 2000, "head": 10}
    folder = runs({}, {"fold": 2, "trainable_parameters": other})
    (warning,) = summarize([folder])["warnings"]
    assert "trainable parameters" in warning


def test_refuses_to_mix_protocols(runs):
    folder = runs({}, {"method": "adapter", "protocol_sha": "other"})
    with pytest.raises(InputError, match="protocol_sha") as caught:
        summarize([folder])
    assert "0/results.json" in str(caught.value)
    assert "1/results.json" in str(caught.value)


def test_says_what_cannot_be_read(runs, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file"):
        summarize([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no results.json under .*empty"):
        summarize([tmp_path / "empty"])
    file = runs({}) / "0" / "results.json"
    whole = file.read_text()
    file.write_text(whole[:100])
    with pytest.raises(InputError, match="0/results.json: not whole JSON"):
        summarize([file])
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="0/results.json: not whole JSON"):
        summarize([file])
    for other in ("[1, 2]", '{"corpus": "RAVDESS"}'):
        file.write_text(other)
        with pytest.raises(InputError, match="0/results.json: not the resul"):
            summarize([file])


def test_leftovers_of_a_killed_run_are_not_results(runs):
    folder = runs({})
    scratch = folder / "0" / ".results.json.x1"
    scratch.mkdir()
    (scratch / "results.json").write_text('{"corp')
    assert summarize([folder])["groups"][0]["runs"] == 1


def test_hidden_parents_of_the_given_folder_are_fine(runs):
    folder = runs({}, folder=".cache/runs")
    assert summarize([folder])["groups"][0]["runs"] == 1
