"""Many runs of a recipe, mostly of a stand-in that trains nothing."""

import fcntl
import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ser_peft.cli import main
from ser_peft.crossval import crossval, numbers, runner, trainings
from ser_peft.crossval.trainings import Training
from ser_peft.errors import InputError

ROOT = Path(__file__).resolve().parents[1]

# Leaves how it was called; fails, dies or waits where it is told to.
STAND_IN = r"""
import json, os, signal, sys, time
from pathlib import Path
yaml, *flags = sys.argv[1:]
given = dict(flag.lstrip("-").split("=", 1) for flag in flags if "=" in flag)
fold, seed = int(given["fold"]), int(given["seed"])
out = Path(given["output_folder"])
keep = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
called = {"argv": sys.argv[1:], "cwd": os.getcwd(), "start": time.time()}
called |= {key: os.environ.get(key) for key in keep}
with open(out / "called", "a") as file:
    print(json.dumps(called), file=file)
print("epoch 1 of 3\repoch 2 of 3", flush=True)
how = given.get(f"fold{fold}", given.get("all", "good"))
if how == "bad":
    print("some noise\nerror: data_folder /x: no such folder", flush=True)
    sys.exit(2)
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "lost":
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit()
if how == "silent":
    sys.exit()
if how == "long":
    child = os.fork()
    (out / f"pid{os.getpid()}").touch()
    time.sleep(60)
if how == "slow":
    time.sleep(0.4)
time.sleep(0.05)
results = {
    "corpus": "demo", "protocol": "5-fold", "protocol_sha": f"sha{fold}",
    "fold": fold, "folds_total": 5, "seed": seed, "backbone": "wavlm",
    "method": Path(yaml).stem, "classes": ["a", "b"], "ua": 0.5 + fold / 100,
    "wa": 0.5, "macro_f1": 0.5, "train_seconds": 1.0,
    "confusion": [[1, 0], [0, 1]],
    "trainable_parameters": {"adapter": 1, "head": 1},
}
called["end"] = time.time()
(out / "called.json").write_text(json.dumps(called))
(out / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look often; no limits on threads from outside."""
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


KEYS = "seed fold patience all fold1 fold2 fold3 fold4 label".split()
KEYS += (
    "protocol corpus_file output_folder data_folder init_from teacher".split()
)
YAML = "".join(f"{key}: 1\n" for key in [*KEYS, "backbone"])


@pytest.fixture
def recipe(tmp_path):
    """Folder of a recipe whose train.py is the stand-in."""
    folder = tmp_path / "recipes" / "Demo"
    (folder / "hparams").mkdir(parents=True)
    (folder / "train.py").write_text(STAND_IN)
    for name in ("lora", "full"):
        (folder / "hparams" / f"{name}.yaml").write_text(YAML)
    return folder


def called(folder):
    """How often and how the stand-in was called for a run."""
    return [*map(json.loads, (folder / "called").read_text().splitlines())]


def command(recipe, *more, hparams="hparams/lora.yaml"):
    """Arguments of ``ser-peft crossval``."""
    parts = [recipe / "train.py", *hparams.split(), *more]
    return ["crossval", *map(str, parts)]


def test_every_yaml_fold_and_seed_is_trained_and_summarized(
    recipe, tmp_path, capsys
):
    out = tmp_path / "out"
    yamls = "hparams/lora.yaml hparams/full.yaml"
    flags = "--folds 1-2 --seeds 8,16 --patience=3".split()
    main(command(recipe, *flags, "--output_folder", out, hparams=yamls))
    found = {str(p.parent.relative_to(out)) for p in out.rglob("results.json")}
    assert found == {
        f"{method}/fold{fold}/{seed}"
        for method in ("lora", "full")
        for fold in (1, 2)
        for seed in (8, 16)
    }
    (call,) = called(out / "full" / "fold2" / "16")
    folder = out / "full" / "fold2" / "16"
    assert call["cwd"] == str(recipe)
    assert call["argv"] == [
        str(recipe / "hparams" / "full.yaml"),
        "--fold=2",
        "--seed=16",
        f"--output_folder={folder}",
        "--patience=3",
    ]
    printed = capsys.readouterr().out
    assert "lora/fold1/8: UA 51.0%, 1 s" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert [(g["method"], g["runs"]) for g in summary["groups"]] == [
        ("lora", 4),
        ("full", 4),
    ]
    assert "<html" in (out / "summary.html").read_text()
    assert "| lora " in printed and "51.5 ± 0.6" in printed


def test_failures_are_reported_and_the_others_done(recipe, capsys):
    flags = "--folds 1-5 --fold2=bad --fold3=killed --fold4=silent".split()
    with pytest.raises(SystemExit) as stop:
        main(command(recipe, *flags))
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    runs = recipe / "results" / "lora"
    log = runs / "fold2" / "8" / "console.log"
    assert err.splitlines() == [
        "failed: lora/fold2/8: exit code 2: error: data_folder /x: no such "
        f"folder; see {log}",
        "failed: lora/fold3/8: signal 9: epoch 2 of 3; see "
        f"{runs}/fold3/8/console.log",
        "failed: lora/fold4/8: left no results: epoch 2 of 3; see "
        f"{runs}/fold4/8/console.log",
    ]
    assert "some noise" in log.read_text()
    summary = json.loads((recipe / "results" / "summary.json").read_text())
    assert summary["groups"][0]["folds"] == [1, 5]

    # Again, the failing ones only.
    main(command(recipe, "--folds", "1-5"))
    assert "2 of 5 are finished" in capsys.readouterr().out
    calls = [len(called(runs / f"fold{fold}" / "8")) for fold in range(1, 6)]
    assert calls == [1, 2, 2, 2, 1]
    main(command(recipe, "--folds", "1-5"))
    assert "5 of 5 are finished" in capsys.readouterr().out
    assert calls == [
        len(called(runs / f"fold{fold}" / "8")) for fold in range(1, 6)
    ]


def test_classes_without_test_clips_are_said(recipe, capsys):
    stand_in = recipe / "train.py"
    code = stand_in.read_text().replace(
        '"confusion": [[1, 0], [0, 1]]',
        '"confusion": [[1, 0], [0, 0]], "missing_classes": ["b"]',
    )
    stand_in.write_text(code)
    main(command(recipe, "--folds", "1"))
    said = capsys.readouterr().out
    assert "lora/fold1/8: UA 51.0% over 1 of 2 classes (no b), 1 s" in said
    assert "| 1 of 2 in fold 1 |" in said


def test_nothing_finished_is_no_summary(recipe, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command(recipe, "--folds", "1-2", "--all=bad"))
    assert stop.value.code == 1
    assert not (recipe / "results" / "summary.json").exists()


def overlap(runs):
    """The most runs that were there at once."""
    times = [json.loads((r.folder / "called.json").read_text()) for r in runs]
    return max(
        sum(other["start"] <= one["start"] < other["end"] for other in times)
        for one in times
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_so_many_at_once_share_the_cores(recipe, monkeypatch, jobs):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    runs = trainings(
        recipe / "train.py", ["hparams/lora.yaml"], [1, 2, 3, 4], [8],
        overrides=["--all=slow"],
    )  # fmt: skip
    assert crossval(runs, jobs) == {}
    assert overlap(runs) == jobs
    calls = [called(run.folder)[0] for run in runs]
    assert {c["OMP_NUM_THREADS"] for c in calls} == {str(8 // jobs)}
    assert {c["CUDA_VISIBLE_DEVICES"] for c in calls} == {None}


def test_enough_is_enough(recipe):
    """What is not wanted is not begun; what fails is told."""
    runs = trainings(
        recipe / "train.py", ["hparams/lora.yaml"], [1, 2, 3, 4], [8],
        overrides=["--fold2=bad"],
    )  # fmt: skip
    asked = []

    def enough(failed):
        asked.append([*failed])
        return bool(failed)

    assert [*crossval(runs, enough=enough)] == ["lora/fold2/8"]
    assert asked == [[], ["lora/fold2/8"]]
    assert [run.folder.exists() for run in runs] == [True, True, False, False]


def test_a_training_is_busy_while_its_process_lives(recipe):
    (run,) = trainings(recipe / "train.py", ["hparams/lora.yaml"], [1], [8])
    assert not run.busy
    assert run() is None and not run.busy
    with open(run.log, "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert run.busy


def pretrained(recipe, name="pre"):
    """A pretraining for a recipe: the stand-in, and a yaml that has a key."""
    (recipe / "train_pre.py").write_text(
        STAND_IN.replace('"results.json"', '"pretraining.json"')
    )
    (recipe / "hparams" / f"{name}.yaml").write_text("all: good\n")
    return ("train_pre.py", f"hparams/{name}.yaml")


def test_pretrains_once_a_fold_and_seed(recipe, tmp_path):
    out = tmp_path / "out"
    runs = trainings(
        recipe / "train.py", ["hparams/lora.yaml", "hparams/full.yaml"],
        [1, 2], [8], out, ["--all=slow", "--patience=3"], pretrained(recipe),
    )  # fmt: skip
    assert crossval(runs, jobs=4) == {}
    for fold in (1, 2):
        pre = out / "pre" / f"fold{fold}" / "8"
        (first,) = called(pre)
        # Of the overrides those that its yaml has.
        assert first["argv"] == [
            str(recipe / "hparams" / "pre.yaml"), f"--fold={fold}", "--seed=8",
            f"--output_folder={pre}", "--all=slow",
        ]  # fmt: skip
        for method in ("lora", "full"):
            folder = out / f"pre+{method}" / f"fold{fold}" / "8"
            (call,) = called(folder)
            assert call["argv"][-1] == f"--init_from={pre}"
            assert call["start"] > first["start"] + 0.4
    assert crossval(runs) == {}
    assert len(called(out / "pre" / "fold1" / "8")) == 1


def test_a_failed_pretraining_fails_what_starts_from_it(recipe, tmp_path):
    (recipe / "hparams" / "pre.yaml").touch()
    script, _ = pretrained(recipe)
    (recipe / "hparams" / "pre.yaml").write_text("fold1: good\n")
    runs = trainings(
        recipe / "train.py", ["hparams/lora.yaml"], [1, 2], [8],
        tmp_path / "out", ["--fold1=bad"], (script, "hparams/pre.yaml"),
    )  # fmt: skip
    failed = crossval(runs)
    assert list(failed) == ["pre+lora/fold1/8"]
    assert failed["pre+lora/fold1/8"].startswith("pre/fold1/8: exit code 2")
    assert not (tmp_path / "out/pre+lora/fold1/8").exists()
    assert runs[1].finished


def test_no_such_pretraining(recipe):
    for pretrain, says in (
        (("train_x.py", "hparams/lora.yaml"), "has no such script"),
        (("train.py", "hparams/x.yaml"), "no such yaml"),
    ):
        with pytest.raises(InputError, match=says):
            trainings(
                recipe / "train.py", ["hparams/lora.yaml"], [1], [8],
                pretrain=pretrain,
            )  # fmt: skip


def test_threads_that_are_set_stay(recipe, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    runs = trainings(recipe / "train.py", ["hparams/lora.yaml"], [1], [8])
    assert crossval(runs) == {}
    assert called(runs[0].folder)[0]["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("visible", "flags", "expected"),
    [
        (None, [], {"0", "1"}),
        ("4,6", [], {"4", "6"}),
        (None, ["--device=cuda:1"], {None}),
    ],
)
def test_gpus_are_dealt(recipe, monkeypatch, visible, flags, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    runs = trainings(
        recipe / "train.py", ["hparams/lora.yaml"], [1, 2, 3], [8],
        overrides=["--all=slow", *flags],
    )  # fmt: skip
    assert crossval(runs, jobs=2) == {}
    calls = [called(run.folder)[0] for run in runs]
    assert {c["CUDA_VISIBLE_DEVICES"] for c in calls} == expected


def test_paths_mean_what_they_mean_here(recipe, tmp_path, monkeypatch):
    """Also though the runs start in the recipe's folder."""
    here = tmp_path / "here"
    for name in ("corpus", "wavlm", "adapter", "cosine"):
        (here / name).mkdir(parents=True)
    (here / "mine.yaml").touch()
    monkeypatch.chdir(here)
    script = os.path.relpath(recipe / "train.py", here)
    (run,) = trainings(
        script, ["mine.yaml"], [1], [8], "out",
        ["--data_folder=corpus", "--backbone=wavlm", "--init_from=./adapter",
         "--schedule=cosine", "--manifest=../here/corpus", "--debug",
         "--other_folder=nowhere", "--name=a/b=c"],
    )  # fmt: skip
    assert run.command[1:3] == ["train.py", str(here / "mine.yaml")]
    assert Path(run.command[0]) == Path(sys.executable)
    assert run.folder == here / "out" / "mine" / "fold1" / "8"
    assert [os.path.normpath(p) for p in run.command[6:]] == [
        f"--data_folder={here}/corpus",
        f"--backbone={here}/wavlm",
        f"--init_from={here}/adapter",
        "--schedule=cosine",
        os.path.normpath(f"--manifest={here}/corpus"),
        "--debug",
        "--other_folder=nowhere",
        "--name=a/b=c",
    ]


def test_places_arrive_as_they_are_written(recipe, tmp_path, monkeypatch):
    """Wherever they stand, with blanks in them, however the = is written."""
    corpus = tmp_path / "a #1: b=c"
    corpus.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ref = "--teacher=!ref results/a b/fold<fold>/<seed>"
    main(
        ["crossval", str(recipe / "train.py"), "hparams/lora.yaml", ref,
         "--data_folder=a #1: b=c", "--all=slow", "--init_from=~/x y",
         "--folds", "1", "--backbone", "=", "{x}", "--label=a b",
         "--corpus_file=emobox:emodb@a #1: b=c",
         f"--output_folder={tmp_path / 'o o'}"]
    )  # fmt: skip
    (call,) = called(tmp_path / "o o" / "lora" / "fold1" / "8")
    assert {*call["argv"][4:]} == {
        ref, f"--data_folder={corpus}", f"--init_from={tmp_path}/x y",
        "--all=slow", "--backbone={x}", "--label=a b",
        f"--corpus_file=emobox:emodb@{corpus}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["none.yaml", "--folds", "1"], "none.yaml: no such yaml"),
        (["train.py", "--folds", "0-"], "0-: no numbers"),
        (["train.py", "--folds", "3-1"], "3-1: no numbers"),
        (["hparams/lora.yaml", "--folds", "2,0"], "--folds 0: .* from 1"),
        (["train.py", "--folds", "1", "--seeds", "x"], "x: no numbers"),
        (["train.py", "--folds", "1", "--jobs", "0"], "--jobs 0"),
        (["train.py", "--folds", "1", "--seed=3"], "--seed: .* --seeds"),
        (["train.py", "--folds", "1", "--fold=3"], "--fold: .* --folds"),
        (["train.py", "--folds", "1", "--save_folder=x"], "--output_folder"),
        (["train.py", "--folds", "1", "x"], "x: not understood"),
        (["train.py", "--folds", "1", "--a-b=x"], "--a-b: not understood"),
        (["train.py", "--folds", "1", "--data_folder=~no1/x"], "no user no1"),
        (
            ["hparams/lora.yaml", "./hparams/lora.yaml", "--folds", "1"],
            "two trainings called lora",
        ),
        (["train.py", "--folds", "1", "--slurm", "time=3"], "--cluster slurm"),
        (
            ["hparams/lora.yaml", "--folds", "1", "--cluster", "slurm"],
            "no sbatch",
        ),
        (
            ["hparams/lora.yaml", "--folds", "1-3", "--nope=1"],
            "--nope: .*lora.yaml has no such key",
        ),
    ],
)
def test_refuses(recipe, tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        main(["crossval", str(recipe / "train.py"), *flags])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"^error: .*{message}", line)
    assert not (recipe / "results").exists()


def test_methods_have_folders_of_their_own(recipe, tmp_path, capsys):
    """And are handed on as a flag like the others."""
    methods = tmp_path / "recipes" / "methods"
    methods.mkdir()
    for name in ("lora", "dora"):
        (methods / f"{name}.yaml").write_text(f"name: {name}\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\n")
    (recipe / "hparams" / "lora.yaml").write_text(
        f"{YAML}method: lora\npeft: !include:../../methods/lora.yaml {{}}\n"
    )
    main(command(recipe, "--folds", "1", "--methods", f"lora,dora,{mine}"))
    for name, value in (("lora", "lora"), ("dora", "dora"), ("mine", mine)):
        (call,) = called(recipe / "results" / f"lora-{name}" / "fold1" / "8")
        assert call["argv"][-1] == f"--method={value}"
    assert "lora-dora/fold1/8: UA 51.0%" in capsys.readouterr().out


@pytest.mark.parametrize("protocol", ["peft-ser", "peft-ser/inner2"])
def test_a_fold_too_high_is_told_once(recipe, ravdess_tree, capsys, protocol):
    """Before any of the trainings that would refuse it one by one."""
    corpus = "corpus: ravdess\nclasses: 4\nfold: 1\n"
    yaml = YAML.replace("fold: 1\n", "", 1) + corpus
    (recipe / "hparams" / "lora.yaml").write_text(yaml)
    flags = f"--folds 7,1-6 --data_folder={ravdess_tree}".split()
    flags += [f"--protocol={protocol}"]
    with pytest.raises(SystemExit) as stop:
        main(command(recipe, *flags))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: --folds 7: ravdess, {protocol} has folds 1 to 5"
    assert not (recipe / "results").exists()


def test_inner_folds_have_a_folder_of_their_own(recipe):
    """Or their runs would be refused where those of the outer folds are."""
    given = [recipe / "train.py", ["hparams/lora.yaml"], [1], [8]]
    for protocol, folder in (
        ("peft-ser", "results"),
        ("peft-ser/inner3", "results/peft-ser/inner3"),
    ):
        (run,) = trainings(*given, overrides=[f"--protocol={protocol}"])
        assert run.folder == recipe / folder / "lora/fold1/8"


def test_refuses_a_missing_script(recipe):
    with pytest.raises(InputError, match="nope.py: no such file"):
        trainings(recipe / "nope.py", ["hparams/lora.yaml"], [1], [8])


def test_numbers():
    assert numbers("1-5") == [1, 2, 3, 4, 5]
    assert numbers("8,16,24") == [8, 16, 24]
    assert numbers("3, 1-2,2") == [3, 1, 2]
    for text in ("", "a", "1-", "2-1", "1.5", "1,,2"):
        with pytest.raises(InputError, match="no numbers"):
            numbers(text)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def started(recipe):
    """A crossval in a process of its own, with two runs going on."""
    flags = "--folds 1-3 --jobs 2 --all=long".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "ser_peft.cli", *command(recipe, *flags)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # As in a terminal: where the tests run behind nohup it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # Both the stand-in and its worker.
    wait_for(lambda: len([*recipe.rglob("pid*")]) == 4, 60)
    yield process
    process.kill()
    process.wait()
    for path in recipe.rglob("pid*"):
        if alive(path):
            os.kill(int(path.name[3:]), signal.SIGKILL)


def alive(path):
    """Whether the process of a file `pid...` still runs."""
    try:
        state = Path(f"/proc/{path.name[3:]}/stat").read_text()
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_children(started, recipe, number):
    started.send_signal(number)
    assert started.wait(60) == 128 + number
    pids = [*recipe.rglob("pid*")]
    wait_for(lambda: not any(map(alive, pids)))
    assert len(pids) == 4  # the third run was not started
    assert "Traceback" not in started.stdout.read()


def test_what_a_killed_one_left_running_is_not_started_twice(
    started, recipe, capsys
):
    started.kill()
    started.wait()
    assert all(map(alive, recipe.rglob("pid*")))
    with pytest.raises(SystemExit) as stop:
        main(command(recipe, "--folds", "1-3"))
    assert stop.value.code == 1
    err = capsys.readouterr().err.splitlines()
    assert err == [
        f"failed: lora/fold{fold}/8: another process is training it; wait "
        "for it or stop it"
        for fold in (1, 2)
    ]
    assert (recipe / "results/lora/fold3/8/results.json").exists()


# ------------------------------------------------------------------- cluster


def test_slurm(recipe, slurm, capsys):
    flags = "--folds 1-2 --fold2=bad --cluster slurm --slurm"
    flags += " time=30 partition=gpu gpus_per_node=1"
    with pytest.raises(SystemExit) as stop:
        main(command(recipe, *flags.split()))
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert "lora/fold1/8: UA 51.0%, 1 s" in out
    assert "failed: lora/fold2/8: exit code 2: error: data_folder /x" in err
    scripts = [path.read_text() for path in slurm.glob("*.sh")]
    assert len(scripts) == 2
    for script in scripts:
        for line in ("partition=gpu", "time=30", "gpus-per-node=1"):
            assert f"#SBATCH --{line}\n" in script
    names = {f"lora/fold{fold}/8" for fold in (1, 2)}
    assert names == {
        shlex.split(line)[1].partition("=")[2]
        for script in scripts
        for line in script.splitlines()
        if "--job-name" in line
    }
    assert not (slurm / "cancelled").exists()


def test_a_job_that_slurm_lost_is_a_failure(recipe, slurm, capsys, monkeypatch):
    """Killed for its memory, say: it is not waited for."""
    monkeypatch.setattr("submitit.SlurmJob._results_timeout_s", 0)
    flags = "--folds 1-2 --fold2=lost --cluster slurm --slurm time=30"
    with pytest.raises(SystemExit) as stop:
        main(command(recipe, *flags.split()))
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert "lora/fold1/8: UA 51.0%, 1 s" in out
    (failed,) = err.splitlines()
    assert failed.startswith("failed: lora/fold2/8: Job ")
    assert "(state: FAILED)" in failed


def test_slurm_jobs_are_cancelled(recipe, slurm):
    flags = "--folds 1-2 --all=long --cluster slurm --slurm time=30".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "ser_peft.cli", *command(recipe, *flags)]
    )
    wait_for(lambda: len([*recipe.rglob("pid*")]) == 4, 90)
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    ids = sorted((slurm / "cancelled").read_text().split())
    assert ids == sorted(path.stem for path in slurm.glob("*.sh"))
    for path in recipe.rglob("pid*"):
        os.kill(int(path.name[3:]), signal.SIGKILL)


@pytest.mark.parametrize(
    ("slurm_flags", "message"),
    [
        ("partition=gpu", "--slurm time=MINUTES is needed"),
        ("time=3 partitoin=gpu", "--slurm: .*partitoin"),
        ("time=3 gpu", "--slurm gpu: write key=value"),
    ],
)
def test_slurm_refuses(recipe, slurm, capsys, slurm_flags, message):
    flags = f"--folds 1 --cluster slurm --slurm {slurm_flags}".split()
    with pytest.raises(SystemExit) as stop:
        main(command(recipe, *flags))
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not [*slurm.glob("*.sh")]


def test_slurm_is_an_extra(recipe, slurm, capsys, monkeypatch):
    """Which nothing else needs."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "submitit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "submitit", None)
    flags = "--folds 1 --cluster slurm --slurm time=3".split()
    with pytest.raises(SystemExit) as stop:
        main(command(recipe, *flags))
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: this needs submitit: pip install 'ser_peft[slurm]'\n"
    )
    main(command(recipe, "--folds", "1"))


def test_progress_is_the_epoch_and_the_last_line(tmp_path):
    run = Training("lora/fold1/8", [], tmp_path, tmp_path)
    run.log.write_text("")
    assert run.progress() == "no output"
    run.log.write_text("a line\n\n")
    assert run.progress() == "a line"
    bar = "".join(f"\r{i}/300" for i in range(1, 300))
    epochs = [f"epoch_loop - Going into epoch {i}\n{bar}\n" for i in range(9)]
    run.log.write_text("".join(epochs) + "  \n")
    assert run.progress() == "epoch 8, 299/300"
    assert run.last_line() == "299/300"


def test_what_goes_back_to_the_queue_has_no_process(recipe):
    (run,) = trainings(recipe / "train.py", ["hparams/lora.yaml"], [1], [8])
    assert run() is None and run.process is not None
    again = pickle.loads(pickle.dumps(run.checkpoint().function))
    assert isinstance(again, Training) and again == run
    assert again.process is None


# -------------------------------------------------------------- a real recipe


def test_real_recipe(arguments, tiny_backbones, tmp_path, capsys, monkeypatch):
    """A fold of RAVDESS, tiny; started from the repository's root."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    _, *flags = arguments(None, output_folder=None, manifests_folder=None)
    flags = [flag for flag in flags if "number_of_epochs" not in flag]
    argv = ["crossval", "recipes/RAVDESS/train.py", "hparams/whisper_lora.yaml"]
    argv += "--folds 2 --number_of_epochs=1 --output_folder".split()
    main([*argv, str(tmp_path), *flags])
    (group,) = json.loads((tmp_path / "summary.json").read_text())["groups"]
    assert group["corpus"] == "ravdess" and group["folds"] == [2]
    assert group["method"] == "lora"
    assert group["step_seconds"] > 0 and group["model_bytes"] > 1000
    assert group["pooled"]["ua_ci95"]
    assert "whisper_lora/fold2/8: UA" in capsys.readouterr().out
