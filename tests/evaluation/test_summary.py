"""Runs gathered from folders, averaged by hand."""

import csv
import json
import statistics

import pytest

from ser_peft.cli import main
from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import scores, speaker_interval
from ser_peft.evaluation.summary import summarize
from ser_peft.report.summary_page import render_summary
from ser_peft.report.tables import format_summary


@pytest.fixture
def runs(tmp_path):
    """Write runs, each given as what differs from a plain one.

    ``rows`` (id, speaker, label and predicted class) are its predictions and
    give its scores, ``yaml`` its settings, ``model`` the bytes of its model.
    """

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
                "confusion": [[1, 0, 0, 0]] * 4,
                "trainable_parameters": {"adapter": 1000, "head": 10},
                "train_seconds": 60.0,
            }
            run |= change
            where = tmp_path / folder / str(i)
            (where / "model").mkdir(parents=True)
            if "rows" in run:
                rows = run.pop("rows")
                ids, _, labels, said = zip(*rows, strict=True)
                index = run["classes"].index
                run |= scores(
                    [*map(index, labels)], [*map(index, said)], run["classes"]
                )
                with open(where / "predictions.csv", "w", newline="") as file:
                    writer = csv.writer(file)
                    head = ["id", "speaker", "label", "predicted"]
                    if started := run.pop("start_said", None):
                        head.append("start_predicted")
                        rows = [
                            (*row, said)
                            for row, said in zip(rows, started, strict=True)
                        ]
                    writer.writerows([head, *rows])
            if history := run.pop("history", None):
                (where / "history.json").write_text(json.dumps(history))
            if "yaml" in run:
                yaml = run.pop("yaml").replace("HERE", str(where))
                (where / "hyperparams.yaml").write_text(yaml)
            (where / "model" / "weights").write_bytes(
                bytes(run.pop("model", 0))
            )
            (where / "results.json").write_text(json.dumps(run))
        return tmp_path / folder

    return write


def judged(fold, wrong=0, n_speakers=4):
    """Rows of a test set: 8 a speaker, of which the last are wrong."""
    return [
        (
            f"{fold}{speaker}{i}",
            f"{fold}{speaker}",
            "abcd"[i % 4],
            "abcd"[i % 4 if i < 8 - wrong else (i + 1) % 4],
        )
        for speaker in "ABCDEFGHIJ"[:n_speakers]
        for i in range(8)
    ]


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
    table = format_summary(summarize([folder]))
    assert "70.0 ± 10.0" in table and "1,2,5 of 5" in table


def test_what_the_runs_started_from(runs):
    """And which of them ended below it on valid."""
    start = {"from": "linear probe", "valid_ua": 0.7}
    folder = runs(
        {"fold": 1, "valid_ua": 0.75, "start": start | {"ua": 0.5}},
        {"fold": 2, "valid_ua": 0.65, "start": start | {"ua": 0.6}},
    )
    summary = summarize([folder])
    (group,) = summary["groups"]
    assert group["start"]["mean"] == pytest.approx(0.55)
    assert " start |" in format_summary(summary)
    assert "55.0 ± 7.1" in format_summary(summary)
    (warning,) = [text for text in summary["warnings"] if "on valid" in text]
    assert "fold 2, seed 0: on valid the kept model has UA 0.650" in warning
    table = format_summary(summarize([runs({"fold": 1}, folder="others")]))
    assert " start |" not in table


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
    assert "70.0 ± 14.1 (14.1)" in format_summary(summarize([folder]))


def test_groups_are_kept_apart_probe_first_then_best(runs):
    folder = runs(
        {"method": "adapter", "rows": judged(1, 2)},
        {"method": "LoRA", "rows": judged(1, 1)},
        {"method": "linear probe", "rows": judged(1, 4)},
        {"method": "LoRA", "rows": judged(1), "backbone": "hubert"},
        {"corpus": "CREMA-D", "ua": 0.1},
        {
            "classes": list("abcdef"),
            "confusion": [[1] * 6] * 6,
            "protocol_sha": "six",
            "ua": 0.3,
        },
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
    table = format_summary(summary)
    assert table.count("## ") == 3
    rows = [line for line in table.splitlines() if line.startswith("|")]
    # Sizes and times of steps are not known and have no columns.
    counts = [13] * 3 + [13] * 6 + [8] * 5 + [13] * 3
    assert [row.count("|") for row in rows] == counts


def test_students_of_the_same_teacher_are_one_group(runs):
    """Each fold's teacher is another run of it."""
    folder = runs(
        {"fold": 1, "yaml": "teacher: /a/big/fold1/8/model\n"},
        {"fold": 2, "yaml": "teacher: /a/big/fold2/8\n"},
        {"fold": 1, "yaml": "teacher: /a/small/fold1/8\n"},
    )
    counts = [group["runs"] for group in summarize([folder])["groups"]]
    assert sorted(counts) == [1, 2]


def test_students_of_the_same_ensemble_are_one_group(runs):
    """It has a folder for each fold; the Brain holds what its yaml holds."""
    text = "kd_weight: {0}\nteacher: {1}\nbrain: !name:a.B {{teacher: {1}}}\n"
    settings = [
        (1, 0.9, "/a/all/fold1"),
        (2, 0.9, "/a/all/fold2/model"),
        (1, 0, ""),
        (2, 0, ""),
    ]
    folder = runs(
        *(
            {"fold": fold, "yaml": text.format(weight, teacher)}
            for fold, weight, teacher in settings
        )
    )
    groups = summarize([folder])["groups"]
    assert [group["runs"] for group in groups] == [2, 2]
    names = {group["settings"] for group in groups}
    assert names == {
        "kd_weight: 0.9, teacher: /a/all",
        "kd_weight: 0, teacher:",
    }


def test_one_run_has_no_spread(runs):
    (group,) = summarize([runs({})])["groups"]
    assert group["ua"]["std"] is None
    assert "±" not in format_summary(summarize([runs({}, folder="other")]))


def test_a_file_given_twice_counts_once(runs):
    folder = runs({})
    paths = [folder, folder / "0", folder / "0" / "results.json"]
    summary = summarize(paths)
    assert summary["groups"][0]["runs"] == 1 and not summary["warnings"]


def test_warns_of_repeated_fold_and_seed(runs):
    summary = summarize([runs({}, {"ua": 0.7}, {"fold": 2})])
    (warning,) = summary["warnings"]
    assert "fold 1, seed 0" in warning and "LoRA on wavlm" in warning
    assert f"warning: {warning}" in format_summary(summary)


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
    with pytest.raises(InputError, match="0/results.json: .*not whole JSON"):
        summarize([file])
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="0/results.json: .*not whole JSON"):
        summarize([file])
    for other in ("[1, 2]", '{"corpus": "RAVDESS"}'):
        file.write_text(other)
        with pytest.raises(InputError, match="0/results.json: not the resul"):
            summarize([file])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": None}, "classes: .*not None"),
        ({"confusion": [[1, 0], [1]]}, "a confusion of 2 rows, not one of 4"),
        ({"ua": None}, "classes, but no score"),
        ({"ua": "0.5"}, "ua: should be a finite number, not '0.5'"),
        ({"train_seconds": None}, "train_seconds: "),
        ({"test_reads": "often"}, "test_reads: "),
        ({"start": 5}, "start: .*not 5"),
        ({"method": None}, "method: should be text, not None"),
        ({"trainable_parameters": {}}, "trainable_parameters: has no 'adapt"),
    ],
)
def test_says_which_result_is_wrong(runs, wrong, message):
    with pytest.raises(InputError, match=f"0/results.json: .*{message}"):
        summarize([runs(wrong)])


def test_refuses_predictions_of_another_run(runs):
    """Or half of a file: their scores would stand beside others."""
    folder = runs({"rows": judged(1)}, {"method": "full", "rows": judged(1)})
    path = folder / "1" / "predictions.csv"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:-8]) + "\n")
    with pytest.raises(InputError, match="1/predictions.csv: not the predict"):
        summarize([folder])


def test_refuses_the_same_classes_in_another_order(runs):
    folder = runs(
        {"rows": judged(1, 1)},
        {"method": "full", "classes": list("abdc"), "rows": judged(1, 2)},
    )
    with pytest.raises(InputError, match="same classes in another order"):
        summarize([folder])


def test_a_seed_that_lacks_folds_is_not_in_the_mean_over_seeds(runs):
    folder = runs(
        *({"fold": fold, "rows": judged(fold, 1)} for fold in (1, 2)),
        {"fold": 1, "seed": 16, "rows": judged(1, 4)},
    )
    summary = summarize([folder])
    (group,) = summary["groups"]
    assert group["pooled"]["over_seeds"]["ua"]["mean"] == 7 / 8
    assert any("seed 16: lacks folds" in w for w in summary["warnings"])


def test_leftovers_of_a_killed_run_are_not_results(runs):
    folder = runs({})
    scratch = folder / "0" / ".results.json.x1"
    scratch.mkdir()
    (scratch / "results.json").write_text('{"corp')
    assert summarize([folder])["groups"][0]["runs"] == 1


def test_hidden_parents_of_the_given_folder_are_fine(runs):
    folder = runs({}, folder=".cache/runs")
    assert summarize([folder])["groups"][0]["runs"] == 1


# ------------------------------------------------------------------- settings

YAML = """\
# LoRA
seed: 8
__set_seed: !apply:speechbrain.utils.seed_everything [8]
fold: {fold}  # 1 to 5
data_folder: {data}
output_folder: HERE
train_logger: !new:FileTrainLogger
  save_file: HERE/train_log.txt
adapter_lr: {lr}  # for the adapter
adapter_opt: !name:torch.optim.AdamW
  lr: {lr}
"""


def test_folds_and_folders_are_no_settings(runs):
    folder = runs(
        {"fold": 1, "yaml": YAML.format(fold=1, data="/a", lr=0.1)},
        {"fold": 2, "yaml": YAML.format(fold=2, data="/b", lr=0.1)},
        {"fold": 3, "yaml": YAML.format(fold=3, data="/b", lr="0.1 #")},
    )
    (group,) = summarize([folder])["groups"]
    assert group["runs"] == 3
    assert group["settings"] == "" and group["name"] == "LoRA"


def test_any_folder_is_no_setting(runs):
    """Though yaml writes its name in quotes, or with escapes."""
    names = ("'run #2/fold1/8'", "'it''s: [x]/fold2/8'", '"{a}\\t/fold3/8"')
    folder = runs(
        *(
            {
                "fold": fold,
                "yaml": YAML.format(fold=fold, data="/a", lr=0.1)
                .replace("HERE/train_log.txt", f"{name[:-1]}/log{name[0]}")
                .replace("HERE", name)
                + f"teacher: '~~ #1: t/fold{fold}/8/model/'",
            }
            for fold, name in enumerate(names, 1)
        )
    )
    (group,) = summarize([folder])["groups"]
    assert group["runs"] == 3 and group["settings"] == ""


def test_other_settings_are_another_group(runs):
    """Though the method has the same name, and as many parameters."""
    folder = runs(
        {"yaml": YAML.format(fold=1, data="/a", lr=0.1), "ua": 0.7},
        {"yaml": YAML.format(fold=1, data="/a", lr=0.2), "ua": 0.6},
        {"yaml": YAML.format(fold=1, data="/a", lr=0.2) + "more: 1\n"},
        {"ua": 0.2},
    )
    summary = summarize([folder])
    assert [g["settings"] for g in summary["groups"]] == [
        "adapter_lr: 0.1",
        "adapter_lr: 0.2",
        "adapter_lr: 0.2, more: 1",
        "no hyperparams.yaml",
    ]
    assert "LoRA (adapter_lr: 0.2, more: 1)" in format_summary(summary)


def test_settings_that_only_others_have(runs):
    folder = runs(
        {"yaml": "a: 1\n", "ua": 0.7}, {"yaml": "a: 1\nb:\n  c: 2\n", "ua": 0.6}
    )
    groups = summarize([folder])["groups"]
    assert [g["settings"] for g in groups] == ["no b:", "b:"]


# ------------------------------------------------------------------ cost, pool


def test_steps_and_sizes(runs):
    folder = runs(
        {"fold": 1, "steps": 30, "train_seconds": 60, "model": 3_000_000},
        {"fold": 2, "steps": 20, "train_seconds": 60, "model": 2_000_000},
    )
    (group,) = summarize([folder])["groups"]
    assert group["step_seconds"] == pytest.approx(2.5)
    assert group["model_bytes"] == 2_500_000
    assert "| 2.50 |   2.50 |      60 |" in format_summary(summarize([folder]))
    (group,) = summarize([runs({"steps": 3}, {}, folder="old")])["groups"]
    assert group["step_seconds"] is None and group["model_bytes"] is None


def test_test_sets_are_pooled(runs):
    sets = [judged(1, 1), judged(2, 4, n_speakers=2)]
    folder = runs(*({"fold": f, "rows": r} for f, r in enumerate(sets, 1)))
    (group,) = summarize([folder])["groups"]
    _, speakers, labels, said = zip(*sets[0], *sets[1], strict=True)
    labels, said = ([*map("abcd".index, x)] for x in (labels, said))
    expected = scores(labels, said, "abcd")
    pooled = group["pooled"]
    assert pooled["confusion"] == expected["confusion"]
    assert pooled["ua"] == pytest.approx(expected["ua"])
    ends, _ = speaker_interval(labels, said, speakers, list("abcd"))
    assert pooled["ua_ci95"] == ends
    assert pooled["ua"] != pytest.approx(group["ua"]["mean"])
    (group,) = summarize([runs({}, folder="bare")])["groups"]
    assert group["pooled"]["ua_ci95"] is None
    assert group["pooled"]["ua_ci95_reason"] == "no predictions.csv"


def test_predictions_of_another_run(runs):
    folder = runs({"rows": judged(1)})
    for text in ("id,speaker\n1,2\n", "id,speaker,label,predicted\n1,2,a,x\n"):
        (folder / "0" / "predictions.csv").write_text(text)
        with pytest.raises(InputError, match="predictions.csv: not the pred"):
            summarize([folder])


# ----------------------------------------------------------------- comparisons


def test_all_are_compared_with_the_best_on_what_both_have(runs):
    folder = runs(
        {"fold": 1, "seed": 1, "rows": judged(1)},
        {"fold": 1, "seed": 2, "rows": judged(1, 1)},
        {"fold": 2, "seed": 1, "rows": judged(2)},
        {"method": "full", "fold": 1, "seed": 2, "rows": judged(1, 4)},
        {"method": "full", "fold": 2, "seed": 1, "rows": judged(2, 4)},
        {"method": "full", "fold": 3, "seed": 1, "rows": judged(3, 2)},
        {"method": "probe", "fold": 1, "seed": None, "rows": judged(1, 2)},
    )
    summary = summarize([folder])
    full, probe = sorted(summary["comparisons"], key=lambda c: c["second"])
    assert (full["first"], full["second"]) == ("LoRA", "full")
    assert (full["runs"], full["folds"], full["seeds"]) == (2, [1, 2], [1, 2])
    assert full["speakers"] == 8
    # 4 of 8 wrong against 1 of 8, then against none.
    assert full["difference"] == pytest.approx((3 / 8 + 4 / 8) / 2)
    assert full["ci95"][0] > 3 / 8 - 1e-9 and full["ci95"][1] < 4 / 8 + 1e-9
    assert full["p"] < 0.001
    assert (probe["runs"], probe["seeds"]) == (2, [1, 2])
    assert probe["difference"] == pytest.approx((2 / 8 + 1 / 8) / 2)
    table = format_summary(summary)
    assert "| LoRA   | full    |     +43.8 |" in table
    assert "<0.001" in table


def test_the_two_that_are_asked_for(runs):
    folder = runs(
        {"method": "best", "rows": judged(1)},
        {"method": "full", "rows": judged(1, 2)},
        {"rows": judged(1, 1), "yaml": "adapter_lr: 1\n"},
        {"rows": judged(1, 3), "yaml": "adapter_lr: 2\n"},
    )
    name = "LoRA (adapter_lr: 2)"
    (one,) = summarize([folder], ("full", name))["comparisons"]
    assert (one["first"], one["second"]) == ("full", name)
    (other,) = summarize([folder], (name, "full"))["comparisons"]
    assert one["difference"] == pytest.approx(1 / 8) == -other["difference"]
    with pytest.raises(InputError, match=r"LoRA: is several; .*adapter_lr: 1"):
        summarize([folder], ("LoRA", "full"))
    with pytest.raises(InputError, match=r"not both there; there are 'best',"):
        summarize([folder], ("lora", "full"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1, "rows": judged(1)}, "no fold and seed in common"),
        ({}, "no predictions.csv beside .*1/results.json"),
    ],
)
def test_what_cannot_be_compared(runs, other, message):
    folder = runs({"rows": judged(1, 2)}, {**other, "method": "full"})
    summary = summarize([folder])
    *_, warning = summary["warnings"]
    assert summary["comparisons"] == []
    with pytest.raises(InputError, match=message):
        summarize([folder], ("LoRA", "full"))
    assert "LoRA" in warning and "full" in warning and "not compared" in warning


NO_CLASSES = dict.fromkeys(("ua", "wa", "macro_f1", "confusion")) | {
    "classes": []
}


def test_dimensions_without_classes(runs):
    folder = runs(
        {**NO_CLASSES, "ccc_mean": 0.4},
        {**NO_CLASSES, "ccc_mean": 0.5, "fold": 2},
        {**NO_CLASSES, "ccc_mean": 0.6, "method": "full"},
    )
    summary = summarize([folder])
    full, lora = summary["groups"]
    assert (full["method"], lora["method"]) == ("full", "LoRA")
    assert lora["ccc_mean"]["mean"] == pytest.approx(0.45)
    assert lora["ua"] is None and lora["pooled"] is None
    assert [point["score"] for point in lora["points"]] == [0.4, 0.5]
    assert summary["comparisons"] == []
    table = format_summary(summary)
    assert "0.450 ± 0.071" in table and "UA" not in table
    with pytest.raises(InputError, match="they have no classes"):
        summarize([folder], ("full", "LoRA"))


def test_dimensions_beside_classes(runs):
    folder = runs(
        {"rows": judged(1), "ccc_mean": 0.4}, {"method": "full", "ua": 0.3}
    )
    one, other = summarize([folder])["groups"]
    assert one["ccc_mean"]["mean"] == 0.4 and other["ccc_mean"] is None
    head, _, first, second = [
        [cell.strip() for cell in line.split("|")]
        for line in format_summary(summarize([folder])).splitlines()
        if line.startswith("|")
    ]
    at = head.index("CCC")
    assert (first[at], second[at]) == ("0.400", "–")


def test_command(runs, tmp_path, capsys):
    folder = runs(
        {"rows": judged(1, 2)}, {"method": "full", "rows": judged(1, 4)}
    )
    out, page = tmp_path / "s" / "summary.json", tmp_path / "s" / "summary.html"
    files = ["--out", str(out), "--html", str(page)]
    main(["summarize", str(folder), "--compare", "full", "LoRA", *files])
    printed = capsys.readouterr().out
    assert "| full   | LoRA    |     -25.0 |" in printed
    summary = json.loads(out.read_text())
    assert printed == format_summary(summary)
    assert "<html" in page.read_text()


def test_scores_with_other_transcripts_are_another_group(runs):
    """Gold ones and a recogniser's are not averaged."""
    gold, heard = {"gold": 4}, {"whisper-tiny.en": 3, "none": 1}
    folder = runs(
        {"fold": 1, "text": {"sources": gold}},
        {"fold": 2, "text": {"sources": heard}},
        {"fold": 3, "text": {"sources": heard | {"none": 2}}},
    )
    runs_of = [group["runs"] for group in summarize([folder])["groups"]]
    assert sorted(runs_of) == [1, 2]


# ------------------------------------------------------- unequal folds, classes


def test_an_easy_fold_alone_is_no_better_method(runs):
    """Ranked by what all have; the rows that lack something are marked."""
    folder = runs(
        {"fold": 1, "rows": judged(1, 1)},
        {"fold": 2, "rows": judged(2, 4)},
        {"fold": 3, "rows": judged(3, 4)},
        {"method": "full", "fold": 1, "rows": judged(1, 2)},
        {"method": "probe", "seed": None, "fold": 1, "rows": judged(1, 3)},
        {"method": "probe", "seed": None, "fold": 2, "rows": judged(2, 5)},
        {"method": "probe", "seed": None, "fold": 3, "rows": judged(3, 5)},
    )
    summary = summarize([folder])
    probe, lora, full = summary["groups"]
    assert (lora["method"], full["method"]) == ("LoRA", "full")
    assert lora["ua"]["mean"] < full["ua"]["mean"]
    assert (lora["common"], full["common"]) == (7 / 8, 6 / 8)
    assert lora["missing"] == probe["missing"] == []
    lacked = [{"fold": 2, "seed": 0}, {"fold": 3, "seed": 0}]
    assert full["missing"] == lacked
    assert {c["first"] for c in summary["comparisons"]} == {"LoRA"}
    incomplete, ranked = summary["warnings"]
    assert incomplete == "full: incomplete, lacks fold 2, fold 3"
    assert "ranked by the folds and seeds that all rows have" in ranked
    page = render_summary(summary)
    for text in (format_summary(summary), page):
        assert "incomplete, lacks" in text and "fold 2, fold 3" in text
    assert "Common: the mean UA on the folds" in " ".join(page.split())


def test_a_seed_that_others_have_is_lacked_too(runs):
    folder = runs(
        {"seed": 1, "ua": 0.5},
        {"seed": 2, "ua": 0.9},
        {"method": "full", "seed": 1, "ua": 0.6},
        {"method": "probe", "seed": None, "ua": 0.3},
    )
    probe, full, lora = summarize([folder])["groups"]
    assert (full["method"], lora["method"]) == ("full", "LoRA")
    assert full["missing"] == [{"fold": 1, "seed": 2}]
    assert "fold 1 seed 2" in format_summary(summarize([folder]))
    assert probe["missing"] == lora["missing"] == []


def test_without_a_fold_in_common_the_most_complete_comes_first(runs):
    folder = runs(
        {"fold": 1, "ua": 0.5},
        {"fold": "b", "ua": 0.5},
        {"method": "full", "fold": 3, "ua": 0.9},
    )
    summary = summarize([folder])
    assert [group["method"] for group in summary["groups"]] == ["LoRA", "full"]
    assert summary["groups"][0]["common"] is None
    assert any("they are not ranked" in w for w in summary["warnings"])
    json.dumps(summary, allow_nan=False)
    assert "fold 1, fold b" in format_summary(summary)


def test_a_class_without_test_clips_is_said(runs):
    rows = [row for row in judged(1, 1) if row[2] != "a"]
    summary = summarize([runs({"rows": rows}, {"fold": 2, "rows": judged(2)})])
    (group,) = summary["groups"]
    assert group["missing_classes"] == [{"fold": 1, "classes": ["a"]}]
    (warning,) = summary["warnings"]
    assert warning.endswith("UA of fold 1 is over 3 of 4 classes (no a)")
    for text in (format_summary(summary), render_summary(summary)):
        assert "UA over" in text and "3 of 4 in fold 1" in text


def test_leaking_protocols_are_named(runs):
    (warning,) = summarize([runs({"shares_speakers": True})])["warnings"]
    assert "training heard speakers of the test set" in warning


def test_scores_against_votes(runs):
    """Means over runs; of runs without votes there is nothing."""

    def votes(distance, ua):
        part = {"unanimous": {"ua": ua}, "more ambiguous": {"ua": ua / 2}}
        return {"js_distance": distance, "by_ambiguity": part}

    summary = summarize(
        [
            runs(
                {"votes": votes(0.4, 0.8)},
                {"votes": votes(0.5, 0.6), "fold": 2},
                {"method": "full"},
            )
        ]
    )
    found = {group["method"]: group for group in summary["groups"]}
    lora, full = found["LoRA"], found["full"]
    assert lora["js_distance"]["mean"] == pytest.approx(0.45)
    by_ambiguity = lora["ua_by_ambiguity"]
    assert by_ambiguity["more ambiguous"]["mean"] == pytest.approx(0.35)
    assert by_ambiguity["less ambiguous"] is None
    assert full["js_distance"] is None
    text = format_summary(summary)
    assert "JS distance" in text and "0.450 ± 0.071" in text
    assert "UA %, unanimous" in text and "less ambiguous" not in text
    assert "70.0 ± 14.1" in render_summary(summary)


# ------------------------------------------------------------------ inner folds


def inner(fold, seed, wrong, start_wrong=None, curve=(), **changes):
    """A run of an inner fold, as `runs` takes it."""
    rows = judged(fold, wrong)
    run = {
        "protocol": "5-fold/inner",
        "scored_on": "valid",
        "test_reads": 0,
        "fold": fold,
        "seed": seed,
        "rows": rows,
        "history": [
            {"epoch": i, "valid_confusion": confusion(judged(fold, n))}
            for i, n in enumerate(curve)
        ],
    }
    if start_wrong is not None:
        said = [row[3] for row in judged(fold, start_wrong)]
        run["start_said"] = said
        run["start"] = {"from": "linear probe", "valid_ua": 0.5, "ua": 0.5}
    return run | changes


def confusion(rows):
    _, _, labels, said = zip(*rows, strict=True)
    labels, said = ([*map("abcd".index, x)] for x in (labels, said))
    return scores(labels, said, "abcd")["confusion"]


def test_inner_folds_are_pooled(runs):
    """UA by seed, its start's and the difference, by hand."""
    folder = runs(
        inner(1, 8, 1, 2), inner(2, 8, 3, 2), inner(1, 9, 0, 2),
        inner(2, 9, 2, 2),
    )  # fmt: skip
    summary = summarize([folder])
    (group,) = summary["groups"]
    pooled = group["pooled"]
    # 8 clips a speaker, of which so many are wrong.
    by_seed = {8: 1 - 4 / 16, 9: 1 - 2 / 16}
    assert {s["seed"]: s["ua"] for s in pooled["by_seed"]} == by_seed
    assert [s["folds"] for s in pooled["by_seed"]] == [[1, 2]] * 2
    assert pooled["over_seeds"]["ua"] == {
        "mean": pytest.approx(0.8125),
        "std": pytest.approx(statistics.stdev(by_seed.values())),
        "std_folds": None,
    }
    assert pooled["ua"] == pytest.approx(0.8125)
    wa = [s["wa"] for s in pooled["by_seed"]]
    assert pooled["over_seeds"]["wa"]["mean"] == statistics.fmean(wa)
    low, high = pooled["ua_ci95"]
    assert low < 0.8125 < high
    start = pooled["start"]
    assert (start["from"], start["ua"]) == ("linear probe", 0.75)
    assert start["difference"] == pytest.approx(0.0625)
    assert start["ci95"][0] < 0.0625 < start["ci95"][1]
    assert start["speakers"] == 8
    table = format_summary(summary)
    assert "scored on valid; no test speaker was read" in table
    assert "81.2 ± 8.8" in table and "75.0" in table and "+6.2" in table
    assert not summary["warnings"]
    json.dumps(summary, allow_nan=False)


def test_inner_and_test_figures_never_share_a_table(runs):
    folder = runs(inner(1, 8, 1), {"fold": 1, "seed": 8, "rows": judged(1, 2)})
    summary = summarize([folder])
    assert [g["scored_on"] for g in summary["groups"]] == ["test", "valid"]
    assert summary["comparisons"] == []
    test, valid = format_summary(summary).split("## ")[1:]
    assert "no test speaker was read" in valid.splitlines()[0]
    assert "pooled valid UA" in valid and "pooled valid UA" not in test
    page = " ".join(render_summary(summary).split())
    assert page.count("<h1>RAVDESS: inner folds, scored on valid; no") == 1
    assert page.count("<h1>RAVDESS</h1>") == 1


def test_settings_on_inner_folds_are_compared(runs):
    folder = runs(
        inner(1, 8, 1), inner(2, 8, 1), inner(1, 8, 3, method="full"),
        inner(2, 8, 3, method="full"),
    )  # fmt: skip
    (compared,) = summarize([folder])["comparisons"]
    assert (compared["first"], compared["second"]) == ("LoRA", "full")
    assert compared["difference"] == pytest.approx(0.25)
    assert (compared["runs"], compared["speakers"]) == (2, 8)


def test_inner_folds_that_lack_one_do_not_lead(runs):
    folder = runs(inner(1, 8, 3), inner(2, 8, 3), inner(1, 8, 0, method="easy"))
    summary = summarize([folder])
    assert [g["method"] for g in summary["groups"]] == ["LoRA", "easy"]
    assert any("that of fewer speakers" in w for w in summary["warnings"])


def test_a_curve_that_dips_is_told(runs):
    """Pooled over the epochs that all runs have; epoch 0 is the start."""
    folder = runs(
        inner(1, 8, 1, 2, curve=(2, 5, 1)),
        inner(2, 8, 1, 2, curve=(2, 3, 1, 0)),
        inner(1, 8, 1, 2, curve=(2, 2, 1), method="gentle"),
    )
    summary = summarize([folder])
    lora, gentle = summary["groups"]
    ua = [point["ua"] for point in lora["pooled"]["curve"]]
    assert ua == pytest.approx([0.75, 0.5, 0.875])
    told = [w for w in summary["warnings"] if "pooled valid after" in w]
    assert told == [
        "LoRA on wavlm: pooled valid after epoch 1 UA is 50.0%, 25.0 points "
        "under the start (75.0%)"
    ]
    page = " ".join(render_summary(summary).split())
    assert "<b>LoRA</b>: after epoch 1 UA is 50.0%, 25.0 points" in page
    assert "gentle</b>: after" not in page
    gentle = runs(inner(1, 8, 1, 2, curve=(2, 2, 1)), folder="gentle")
    page = " ".join(render_summary(summarize([gentle])).split())
    assert "No curve falls more than 10 points under its start" in page


def test_ending_under_the_start_on_pooled_valid_is_told(runs):
    folder = runs(*(inner(fold, 8, 2, 1, (1, 1)) for fold in (1, 2)))
    (warning,) = summarize([folder])["warnings"]
    assert "75.0%, is under that of what they started from" in warning


def test_a_test_set_that_was_read_again_is_marked(runs):
    folder = runs({"fold": 1, "test_reads": 1}, {"fold": 2, "test_reads": 1})
    assert summarize([folder])["warnings"] == []
    # The second time may have left no results.
    (folder / "1" / "test_reads.txt").write_text("one\ntwo\nthree\n")
    summary = summarize([folder])
    (warning,) = summary["warnings"]
    assert "fold 2, seed 0: the test set was read 3 times" in warning
    assert " up to 3 |" in format_summary(summary)


def test_history_that_cannot_be_read(runs):
    folder = runs({})
    for text in ("{", "[1]", '[{"a": 1}]'):
        (folder / "0" / "history.json").write_text(text)
        with pytest.raises(InputError, match="history.json: not the epochs"):
            summarize([folder])
