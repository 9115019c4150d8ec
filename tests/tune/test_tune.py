"""Searches of settings, mostly of a stand-in that trains nothing."""

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from pages import Page

from ser_peft.cli import main
from ser_peft.corpora.inner import InnerFolds
from ser_peft.crossval.trainings import Training
from ser_peft.tune import Search
from ser_peft.tune.study import Study

ROOT = Path(__file__).resolve().parents[2]

RATES = "adapter_lr: {log: [1.0e-5, 1.0e-3]}\n"
SPACE = f"""{RATES}
method: [lora, dora]
number_of_epochs: {{int: [2, 30, 2]}}
head.dropout: {{uniform: [0.1, 0.5]}}
peft.method.r: {{choice: [8, 16]}}
"""


def rows_of(study):
    """Rows of ``trials.csv``."""
    with open(study / "trials.csv", newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def calls_of(study):
    """Trial, fold and seed -> flags of each time that it was begun."""
    return {
        (int(file.parts[-5]), file.parts[-3], file.parts[-2]): [
            *map(json.loads, file.read_text().splitlines())
        ]
        for file in study.rglob("called")
    }


def test_a_study_leaves_its_trials_the_best_and_a_page(
    command, tmp_path, capsys
):
    study = tmp_path / "study"
    flags = "--seeds 8,16 --label_smoothing=0.2".split()
    main(command(SPACE, 4, *flags, "--jobs", 2))
    rows = rows_of(study)
    assert [row["trial"] for row in rows] == [*"0123"]
    first = rows[0]
    # The yaml as it is.
    own = {"adapter_lr": "0.0005", "method": "lora", "number_of_epochs": "4",
           "head.dropout": "0.2", "peft.method.r": "16"}  # fmt: skip
    assert {key: first[key] for key in own} == own
    assert (first["state"], first["trainings"]) == ("complete", "10")
    assert float(first["start_ua"]) == 0.375
    assert float(first["ua_low"]) < float(first["ua"]) < float(first["ua_high"])
    results = [
        json.loads(file.read_text())["ua"]
        for file in (study / "trials" / "000").rglob("results.json")
    ]
    assert float(first["ua"]) == pytest.approx(sum(results) / 10)

    calls = calls_of(study)
    assert {len(times) for times in calls.values()} == {1}
    (flags,) = calls[0, "fold2", "16"]
    assert {"--fold=2", "--seed=16", "--label_smoothing=0.2"} < {*flags}
    assert "--protocol=peft-ser/inner" in flags
    assert not [flag for flag in flags if "adapter_lr" in flag]
    (flags,) = calls[1, "fold1", "8"]
    for key in ("adapter_lr", "method", "number_of_epochs"):
        assert f"--{key}={rows[1][key]}" in flags
    assert f"--peft={{method: {{r: {rows[1]['peft.method.r']}}}}}" in flags
    assert f"--head={{dropout: {rows[1]['head.dropout']}}}" in flags
    assert not [*study.rglob("save")]

    best = max(rows, key=lambda row: float(row["ua"]))
    yaml = (study / "best.yaml").read_text("utf-8")
    assert f"settings of trial {best['trial']} of" in yaml
    assert f"UA {float(best['ua']):.1%}" in yaml
    assert "\nlabel_smoothing: 0.2\n" in yaml
    assert "Paper: PEFT-SER" in yaml

    page = Page((study / "tune.html").read_text("utf-8"))
    for row in rows:
        assert re.search(rf"\b{row['trial']}\s+\S+\s+{row['adapter_lr']}",
                         page.shown)  # fmt: skip
        assert f"{float(row['ua']):.1%}" in page.shown
    assert len(page.images) >= 1 + 5
    assert {link[0] for link in page.links} == {"#"}
    assert "script" not in page.tags
    out = capsys.readouterr().out
    assert "trial 0 (1 of 4): adapter_lr 0.0005, method lora," in out
    assert f"trial 0: pooled valid UA {float(first['ua']):.1%}" in out
    assert "3 left, about" in out

    # Nothing more is done, unless more are wanted.
    main(command(SPACE, 4, "--seeds", "8,16", "--label_smoothing=0.2"))
    assert rows_of(study) == rows
    assert calls_of(study) == calls

    # The best settings may be the start of another study.
    argv = command(SPACE, 4)
    search = Search(argv[1], str(study / "best.yaml"), argv[4], [8],
                    overrides=[argv[-1], "--backbone", "=", "b c"])  # fmt: skip
    assert search.own["number_of_epochs"] == int(best["number_of_epochs"])
    assert search.own["method"] == best["method"]
    assert search.folder.name == "best" and not search.folder.exists()


def test_a_study_that_goes_on_draws_what_it_would_have_drawn(
    command, tmp_path, in_process, monkeypatch
):
    """Also once Optuna learns from the trials, which it does from 10 on."""
    monkeypatch.setattr(InnerFolds, "folds", 2)
    space = "adapter_lr: {log: [4.0e-4, 1.0e-3]}\nhead_lr: {log: [1e-4, 1e-3]}"
    main(command(space, 12))
    for trials in (1, 11, 12):
        main(command(space, trials, out="parts"))
    drawn = [
        [(row["adapter_lr"], row["head_lr"]) for row in rows_of(tmp_path / out)]
        for out in ("study", "parts")
    ]
    assert drawn[0] == drawn[1]
    assert len({*drawn[0]}) == 12


@pytest.fixture
def start(tmp_path):
    """Function: arguments -> a search in a process of its own, its log."""
    started = []

    def search(argv, log):
        sys.stdout = sys.stderr = open(log, "w", buffering=1)
        main(argv)

    def begin(argv):
        log = tmp_path / f"log{len(started)}"
        # Forked, since imports take longer than all the rest.
        process = multiprocessing.get_context("fork").Process(
            target=search, args=[argv, log]
        )
        process.start()
        started.append(process)
        return process, log

    yield begin
    for process in started:
        process.kill()
        process.join()


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_study_goes_on_in_its_trial(
    command, recipe, start, tmp_path, number
):
    """And ends as one that was left alone, without a stray trial."""
    study = tmp_path / "study"
    main(command(RATES, 3, out="alone"))
    (recipe / "wait").touch()
    process, log = start(command(RATES, 3))
    wait_for(lambda: [*study.rglob("waits")])
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode in (128 + number, -number)
    assert "Traceback" not in log.read_text()
    (recipe / "wait").unlink()
    main(command(RATES, 3))
    rows = rows_of(study)
    assert rows == rows_of(tmp_path / "alone")
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    # What was finished is kept; what SIGKILL left running is waited for.
    begun = [len(calls_of(study)[0, f"fold{fold}", "8"]) for fold in (1, 2, 3)]
    assert begun == [1, 1, 2 if number == signal.SIGTERM else 1]


def test_two_processes_share_a_study(command, recipe, start, tmp_path):
    """Each training is begun once, and no trial is left."""
    study = tmp_path / "study"
    (recipe / "wait").touch()
    started = [start(command(RATES, 4)) for _ in range(2)]
    processes, logs = zip(*started, strict=True)
    wait_for(
        lambda: all(
            # The process itself makes the file.
            log.exists() and "trial " in log.read_text()
            for log in logs
        )
    )
    (recipe / "wait").unlink()
    for process in processes:
        process.join(200)
    said = [log.read_text() for log in logs]
    assert [process.exitcode for process in processes] == [0, 0], said
    rows = rows_of(study)
    assert [row["trial"] for row in rows] == [*"0123"]
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert {len(times) for times in calls_of(study).values()} == {1}
    own = [re.findall(r"^trial (\d) \(", text, re.M) for text in said]
    assert sorted(own[0] + own[1]) == [*"0123"]
    assert all(own)


def test_others_end_before_the_first_trial(
    command, tmp_path, in_process, monkeypatch
):
    """The yaml as it is may be at work elsewhere: nothing to compare with."""
    study, trials = tmp_path / "study", Study.trials
    space = "adapter_lr: {log: [4.9e-4, 5.1e-4]}"
    main(command(space, 2))
    shutil.rmtree(study / "trials" / "000")

    def running(self):
        first, second = trials(self)
        first = {key: first[key] for key in ("number", "params")}
        return [first | {"state": "running"}, second]

    monkeypatch.setattr(Study, "trials", running)
    main(command(space, 2))
    assert [row["state"] for row in rows_of(study)] == ["running", "complete"]
    assert "trial 1 of" in (study / "best.yaml").read_text("utf-8")


def test_slurm(command, tmp_path, slurm, monkeypatch):
    """Submits the trainings of a trial, and nothing else."""
    monkeypatch.setattr(InnerFolds, "folds", 2)
    main(command(RATES, 1, "--cluster", "slurm", "--slurm", "time=5"))
    assert len([*slurm.glob("*.sh")]) == 2
    (row,) = rows_of(tmp_path / "study")
    assert (row["state"], row["trainings"]) == ("complete", "2")


def test_tune_is_an_extra(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit) as stop:
        main(command(RATES, 1))
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: this needs optuna: pip install 'ser_peft[tune]'\n"
    )
    assert not (tmp_path / "study").exists()


def test_a_hopeless_trial_is_stopped(command, tmp_path, capsys, in_process):
    space = "adapter_lr: [0.0005, 0.00001]"
    main(command(space, 6))
    rows = rows_of(tmp_path / "study")
    low = [row for row in rows if row["adapter_lr"] == "1e-05"]
    assert low and {row["state"] for row in low} == {"pruned"}
    # Not in the first fold, whose speakers share a model.
    assert {int(row["trainings"]) for row in low} <= {2, 3, 4}
    same = [row for row in rows if row not in low]
    assert {(row["state"], row["ua"]) for row in same} == {
        ("complete", rows[0]["ua"])
    }
    assert "its speakers fare worse than the best" in capsys.readouterr().out


def test_failures(command, recipe, tmp_path, capsys, in_process):
    """The yaml as it is must work; other settings need not."""
    space, study = "adapter_lr: [0.0005, 0.0006, 0.0007]", tmp_path / "study"
    (recipe / "bad").write_text("0.0005")
    with pytest.raises(SystemExit) as stop:
        main(command(space, 3))
    assert stop.value.code == 1
    said = "failed: trial0/fold1/8: error: adapter_lr: no good"
    assert said in capsys.readouterr().err
    # It is tried again, and of the others as many as are wanted.
    (recipe / "bad").write_text("0.0006")
    main(command(space, 3))
    rows = rows_of(study)
    assert rows[0]["state"] == "complete"
    failed = [row for row in rows if row["state"] == "fail"]
    assert {row["adapter_lr"] for row in failed} == {"0.0006"}
    assert len(rows) - len(failed) == 3
    assert all("adapter_lr: no good" in row["reason"] for row in failed)
    # Several in a row are not the fault of their settings.
    (recipe / "bad").write_text("0.0005 0.0006 0.0007")
    with pytest.raises(SystemExit) as stop:
        main(command(space, 20))
    assert stop.value.code == 1
    assert len(rows_of(study)) == len(rows) + 3


def test_test_speakers_are_refused(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SCORED_ON", "test")
    with pytest.raises(SystemExit) as stop:
        main(command(RATES, 1))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "test speakers were scored" in line


def test_a_corpus_that_changed_is_told(command, tmp_path, capsys, in_process):
    """Its trials cannot be compared."""
    main(command("adapter_lr: [0.0005, 0.001]", 1))
    for file in (tmp_path / "study").rglob("results.json"):
        file.write_text(file.read_text().replace('"sha', '"old'))
    with pytest.raises(SystemExit) as stop:
        main(command("adapter_lr: [0.0005, 0.001]", 8))
    assert stop.value.code == 2
    assert "was not the same utterances in both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("space", "flags", "message"),
    [
        ("", [], "space.yaml: is empty"),
        ("adapter_lr", [], "space.yaml: .*no list of keys"),
        ("adapter_lr: 0.1", [], "adapter_lr: write {log: "),
        ("adapter_lr: {logs: [1, 2]}", [], "adapter_lr: write {log: "),
        ("adapter_lr: {log: [1, 2, 3]}", [], "log takes low and high"),
        ("adapter_lr: {log: [0, 2]}", [], "log takes numbers above 0"),
        ("adapter_lr: {uniform: [2, 1]}", [], "low first"),
        ("adapter_lr: {uniform: [a, 1]}", [], "uniform takes numbers"),
        ("adapter_lr: {uniform: [0, 1, .nan]}", [], "uniform takes numbers"),
        ("adapter_lr: {uniform: [0, 1, -1]}", [], "a step above 0"),
        ("number_of_epochs: {int: [1.5, 2]}", [], "int takes whole numbers"),
        ("schedule: [cosine]", [], "schedule: give two values or more"),
        ("schedule: [cosine, cosine]", [], "all different"),
        ("schedule: [cosine, nope]", [], "schedule: nope is not one of"),
        ("number_of_epochs: {int: [0, 20]}", [], "number_of_epochs: 0 is no"),
        ("method: [lora, nope]", [], "method=nope: there is no"),
        ("nope: [1, 2]", [], "nope: .*whisper_lora.yaml has no such key"),
        ("head.nope: [1, 2]", [], "head.nope: .*has no such key"),
        ("fold: [1, 2]", [], "fold: decides what is scored"),
        ("data_folder: [a, b]", [], "data_folder: decides what is scored"),
        ("adapter_lr: {log: [1e-5, 1e-4]}", [], "has 0.0005, which is not of"),
        ("method: [dora, ia3]", [], "has lora, which is not of dora, ia3"),
        ("head: [1, 2]\nhead.dropout: [0, 1]", [], "holds head.dropout"),
        (RATES, ["--fold=2"], "--fold: .*use --outer"),
        (RATES, ["--seed=2"], "--seed: .*use --seeds"),
        (RATES, ["--nope=2"], "--nope: .*has no such key"),
        (RATES, ["--outer", 6], "peft-ser has folds 1 to 5"),
        (RATES, ["--outer", 0], "--outer 0: give more than 0"),
        (RATES, ["--jobs", 0], "--jobs 0: give more than 0"),
        (RATES, ["--seeds", "x"], "x: no numbers"),
        (RATES, ["--protocol=nope"], "protocol nope/inner: ravdess has"),
        ("peft.method.r: [8, 16]", ["--peft={}"], "--peft: trials have"),
    ],
)
def test_refuses(command, tmp_path, capsys, space, flags, message):
    """In one line, before anything is written."""
    with pytest.raises(SystemExit) as stop:
        main(command(space, 3, *flags))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"^error: .*{message}", line), line
    assert not (tmp_path / "study").exists()


def test_a_study_has_one_space(command, tmp_path, capsys):
    main(command(RATES, 1))
    for space, flags, key in (
        ("adapter_lr: [0.0005, 0.1]", [], "tune_space"),
        (RATES, ["--seeds", "8,9"], "tune_seeds"),
        (RATES, ["--outer", "2"], "tune_protocol"),
        (RATES, ["--head_lr=0.1"], "head_lr"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(command(space, 2, *flags))
        assert stop.value.code == 2
        line = capsys.readouterr().err
        assert f"holds a run with another '{key}'" in line, (key, line)
    assert len(rows_of(tmp_path / "study")) == 1


# -------------------------------------------------------------- a real recipe


def test_settings_run_by_hand_give_their_figure(
    arguments, train, tmp_path, monkeypatch
):
    """Those of a trial as flags; those of the best one as ``best.yaml``."""

    def fork(run, environment, wait=False):
        run.folder.mkdir(parents=True, exist_ok=True)
        end = train(run.command[2:], script="train.py")
        return None if end.code == 0 else end.log

    monkeypatch.setattr(Training, "_train", fork)
    # Two of the five: what is left out is more of the same.
    monkeypatch.setattr(InnerFolds, "folds", 2)
    study, space = tmp_path / "study", tmp_path / "space.yaml"
    space.write_text("head_lr: [0.0005, 0.01]\nmethod: [lora, dora]\n")
    yaml, *flags = arguments(
        study, manifests_folder=None, number_of_epochs=1, robustness=None
    )
    main(["tune", str(Path(yaml).parents[1]), yaml, "--space", str(space),
          "--trials", "2", *flags])  # fmt: skip
    rows = rows_of(study)
    number = "1"
    changed = {key: rows[1][key] for key in ("head_lr", "method")}
    best = max(rows, key=lambda row: float(row["ua"]))["trial"]
    inner = ["--protocol=peft-ser/inner", "--fold=2"]
    flags = [flag for flag in flags if "output_folder" not in flag]
    for name, trial, argv in (
        ("hand", number, [yaml, *(f"--{k}={v}" for k, v in changed.items())]),
        ("best", best, [study / "best.yaml"]),
    ):
        out = tmp_path / name
        more = [*flags, *inner, f"--output_folder={out}"]
        argv = [*argv, *more]
        end = train(argv, script=Path(yaml).parents[1] / "train.py")
        assert end.code == 0, end.log
        there = study / "trials" / f"{int(trial):03d}" / "whisper_lora/fold2/8"
        for file in ("predictions.csv",):
            assert (out / file).read_text() == (there / file).read_text()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes" / "spaces").glob("*.yaml"))
)
def test_shipped_spaces_fit_their_yamls(path, ravdess_tree, tmp_path):
    recipe = ROOT / "recipes" / "RAVDESS"
    search = Search(
        recipe, f"hparams/{path.name}", path, [8], output_folder=tmp_path,
        overrides=[f"--data_folder={ravdess_tree}"],
    )  # fmt: skip
    assert {*search.own} == {*search.space}
    assert search.protocol.folds == 5 and len(search.protocol.held_out) == 5
