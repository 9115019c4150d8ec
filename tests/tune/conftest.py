"""A recipe whose train.py trains nothing, and answers as its flags say."""

import shutil
import sys
from pathlib import Path

import pytest

from ser_peft.crossval import runner
from ser_peft.crossval.trainings import Training
from ser_peft.tune import runner as tune_runner
from ser_peft.tune import writing
from ser_peft.tune.study import Study

ROOT = Path(__file__).resolve().parents[2]

# Right in a share of the clips that grows with adapter_lr up to 0.001. Files
# beside it make fold 3 wait, or let learning rates fail.
STAND_IN = r"""
import csv, json, os, random, sys, time
from pathlib import Path
yaml, *flags = sys.argv[1:]
given = dict(flag.lstrip("-").split("=", 1) for flag in flags)
fold, seed = int(given["fold"]), int(given["seed"])
out, here = Path(given["output_folder"]), Path(__file__).parent
with open(out / "called", "a") as file:
    print(json.dumps(flags), file=file)
lr = given.get("adapter_lr", "0.0005")
while (here / "wait").exists() and fold == 3:
    (out / "waits").touch()
    time.sleep(0.02)
if (here / "bad").exists() and lr in (here / "bad").read_text().split():
    print("error: adapter_lr: no good", flush=True)
    sys.exit(2)
(out / "save").mkdir(exist_ok=True)
classes = ["neutral", "angry", "sad", "happy"]
draw = random.Random(1000 * fold + seed)
right = min(float(lr), 0.001) / 0.001
rows, confusion = [], [[0] * 4 for _ in classes]
for speaker in range(4 * fold - 3, 4 * fold + 1):
    for clip in range(8):
        truth = clip % 4
        wrong = draw.random() > 0.2 + 0.75 * right
        guess = (truth + wrong * draw.randint(1, 3)) % 4
        confusion[truth][guess] += 1
        row = [f"{speaker}-{clip}", f"s{speaker:02d}", classes[truth]]
        rows.append([*row, classes[guess]])
with open(out / "predictions.csv", "w", newline="") as file:
    head = ["id", "speaker", "label", "predicted"]
    csv.writer(file).writerows([head, *rows])
ua = sum(confusion[i][i] for i in range(4)) / 32
results = {
    "corpus": "ravdess", "protocol": given["protocol"],
    "protocol_sha": f"sha{fold}", "fold": fold, "folds_total": 5, "seed": seed,
    "scored_on": os.environ.get("SCORED_ON", "valid"), "test_reads": 0,
    "backbone": "whisper", "method": given.get("method", "lora"),
    "classes": classes, "ua": ua, "wa": ua, "macro_f1": 0.5,
    "train_seconds": 1.0, "confusion": confusion,
    "start": {"valid_confusion": [[6, 2, 0, 0]] + [[2, 6, 0, 0]] * 3},
    "trainable_parameters": {"adapter": 1, "head": 1},
}
# Whole at once, as train.py does: another trial may be reading.
(out / "results.new").write_text(json.dumps(results))
(out / "results.new").replace(out / "results.json")
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Look often; draw the page once only, where it is looked at."""
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(tune_runner, "POLL_SECONDS", 0.01)
    if "page" not in request.node.name:
        monkeypatch.setattr(writing, "render_tuning", lambda study: "")
        monkeypatch.setattr(Study, "importances", lambda study: {})


@pytest.fixture
def in_process(monkeypatch):
    """Run the stand-in here: no process for each training."""

    def train(run, environment, wait=False):
        run.folder.mkdir(parents=True, exist_ok=True)
        script = str(run.recipe / "train.py")
        code = compile(STAND_IN, script, "exec")
        given = {"__file__": script}
        monkeypatch.setattr(sys, "argv", run.command[1:])
        try:
            exec(code, given)
        except SystemExit:
            return "error: adapter_lr: no good"

    monkeypatch.setattr(Training, "_train", train)


@pytest.fixture
def recipe(tmp_path):
    """Folder of the recipe: RAVDESS's yaml, the stand-in as train.py."""
    folder = tmp_path / "recipes" / "RAVDESS ä"
    there = ROOT / "recipes"
    (folder / "hparams").mkdir(parents=True)
    shutil.copytree(there / "methods", folder.parent / "methods")
    shutil.copy(there / "augmentation.yaml", folder.parent)
    shutil.copy(
        there / "RAVDESS" / "hparams" / "whisper_lora.yaml", folder / "hparams"
    )
    (folder / "train.py").write_text(STAND_IN)
    return folder


@pytest.fixture
def command(recipe, ravdess_tree, tmp_path):
    """Function: space, number of trials, flags -> a ``ser-peft tune``."""

    def make(space, trials, *flags, out="study"):
        path = tmp_path / "space.yaml"
        path.write_text(space)
        return [
            "tune", str(recipe), "hparams/whisper_lora.yaml",
            "--space", str(path), "--trials", str(trials),
            "--output_folder", str(tmp_path / out),
            f"--data_folder={ravdess_tree}", *map(str, flags),
        ]  # fmt: skip

    return make
