"""Two processes under DDP, with gloo."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from scripts import RECIPES, yaml_text

from ser_peft.data import datasets, eval_batches, prepare
from ser_peft.lobes.filterbank_cnn import (
    FilterbankCnnConfig,
    FilterbankCnnModel,
)

ROOT = Path(__file__).resolve().parents[2]
# Nothing random, nothing that a batch's partition changes.
EXACT = {
    "augment": False,
    "crop": 1,
    "keep": "last",
    "distributed_backend": "gloo",
}


def rows(folder):
    """Rows of predictions.csv."""
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def recipe(tmp_path):
    """Function: name, changes -> a recipe of its own with a changed yaml."""

    def copy(name, *changes):
        path = tmp_path / "RAVDESS" / "hparams" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        for script in ("train.py", "train_distill.py"):
            shutil.copy(RECIPES / "RAVDESS" / script, path.parents[1])
        text = yaml_text(f"RAVDESS/hparams/{name}.yaml")
        for old, new in changes:
            assert old in text
            # A key stands again in the Brain's settings, which stay.
            count = -1 if old.startswith("torch.optim") else 1
            text = text.replace(old, new, count)
        path.write_text(text)
        return path

    return copy


@pytest.fixture(scope="module")
def equal_lengths(ravdess_tree, tmp_path_factory):
    """Manifests of clips that are all 0.3 s long, 48 of them to train on."""
    root = tmp_path_factory.mktemp("equal")
    for path in ravdess_tree.rglob("*.wav"):
        actor = int(path.parent.name[-2:])
        if actor in (6, 7, 8):  # 15 actors train in fold 1: 12 are left
            continue
        wav, rate = soundfile.read(path)
        (root / "corpus" / path.parent.name).mkdir(parents=True, exist_ok=True)
        soundfile.write(
            root / "corpus" / path.parent.name / path.name, wav[:4800], rate
        )
    prepare("ravdess", root / "corpus", root / "manifests", classes=4, fold=1)
    train_set = json.loads((root / "manifests" / "train.json").read_text())
    assert len(train_set) == 48
    return {
        "data_folder": root / "corpus",
        "manifests_folder": root / "manifests",
        "batch_seconds": 1.8,  # 6 clips: 8 batches
    }


def test_two_processes_train_as_one(
    equal_lengths, recipe, arguments, train, tmp_path
):
    """The same global batches, by torchrun and by accumulating gradients."""
    hparams = recipe(
        "whisper_lora",
        ("dropout: 0.2", "dropout: 0.0"),
        # AdamW turns the rounding of gradients near zero into whole steps.
        ("torch.optim.AdamW", "torch.optim.SGD"),
        (
            "num_workers:",
            "sorting: ascending  # no shuffling by DDP\nnum_workers:",
        ),
    )
    settings = {"adapter_lr": 1, "head_lr": 0.1, "robustness": "True"}
    settings |= EXACT | equal_lengths
    one = train(
        arguments(
            tmp_path / "one", hparams, grad_accumulation_factor=2, **settings
        )
    )
    assert one.code == 0, one.log
    argv = arguments(tmp_path / "two", hparams, **settings)
    two = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         "--nproc_per_node=2", hparams.parents[1] / "train.py", *argv],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("test UA") == 1
    results = {}
    for name in ("one", "two"):
        text = (tmp_path / name / "results.json").read_text()
        results[name] = json.loads(text)
    assert results["one"].pop("processes") == 1
    assert results["two"].pop("processes") == 2
    for key in ("train_seconds", "peak_memory_mb"):
        assert results["one"].pop(key) and results["two"].pop(key)
    ece = [results[name].pop("calibration") for name in ("one", "two")]
    assert ece[0] == pytest.approx(ece[1], abs=1e-3)
    assert results["one"] == results["two"]
    assert len(results["one"]["robustness"]) == 5
    for path in ("adapter/adapter_model.safetensors", "head.safetensors"):
        ours = load_file(tmp_path / "two" / "model" / path)
        theirs = load_file(tmp_path / "one" / "model" / path)
        for key, tensor in ours.items():
            assert torch.allclose(tensor, theirs[key], atol=1e-6), key
            if "lora_B" in key:  # it was zero
                assert tensor.abs().max() > 1e-4
    for ours, theirs in zip(
        rows(tmp_path / "two"), rows(tmp_path / "one"), strict=True
    ):
        assert ours["id"] == theirs["id"]
        assert ours["predicted"] == theirs["predicted"]
        for name in results["one"]["classes"]:
            assert float(ours[name]) == pytest.approx(
                float(theirs[name]), abs=1e-4
            )


@pytest.fixture
def small_cnn(tmp_path):
    """Folder of a small `FilterbankCnnModel` without dropout."""
    torch.manual_seed(0)
    config = FilterbankCnnConfig(
        num_mel_bins=16, hidden_size=16, intermediate_size=32,
        num_hidden_layers=2, hidden_dropout=0.0,
    )  # fmt: skip
    FilterbankCnnModel(config).save_pretrained(tmp_path / "cnn")
    return tmp_path / "cnn"


def test_two_processes_train_a_small_cnn_as_one(
    equal_lengths, recipe, arguments, train, small_cnn, tmp_path
):
    """Its head has no statistics of a batch, which a process would halve."""
    hparams = recipe(
        "cnn_kd",
        ("dropout: 0.2", "dropout: 0.0"),
        ("torch.optim.AdamW", "torch.optim.SGD"),
        ("num_workers:", "sorting: ascending\nnum_workers:"),
    )
    settings = EXACT | equal_lengths | {
        "backbone": small_cnn, "kd_weight": 0,
        "adapter_lr": 0.1, "head_lr": 0.1,
    }  # fmt: skip
    found = {}
    for processes, factor in ((1, 2), (2, 1)):
        argv = arguments(
            tmp_path / f"{processes}", hparams,
            grad_accumulation_factor=factor, **settings,
        )  # fmt: skip
        end = train(argv, processes=processes, script="train_distill.py")
        assert end.code == 0, end.log
        model = tmp_path / f"{processes}" / "model"
        (saved,) = (tmp_path / f"{processes}").rglob("history.ckpt")
        found[processes] = (
            json.loads(saved.read_text()),
            load_file(model / "adapter" / "adapter_model.safetensors")
            | load_file(model / "head.safetensors"),
        )
    for ours, theirs in zip(found[2][0], found[1][0], strict=True):
        for key in ("train_loss", "valid_loss", "valid_ua"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-4), key
    for key, tensor in found[2][1].items():
        assert torch.allclose(tensor, found[1][1][key], atol=1e-5), key


def test_one_clip_on_one_process(
    equal_lengths, arguments, train, small_cnn, tmp_path
):
    """And one batch on each: 47 clips here, one there."""
    settings = equal_lengths | {
        "backbone": small_cnn, "kd_weight": 0, "num_workers": 1,
        "batch_seconds": 47.5 * 0.3, "distributed_backend": "gloo",
    }  # fmt: skip
    argv = arguments(
        tmp_path / "run", "RAVDESS/hparams/cnn_kd.yaml", **settings
    )
    end = train(argv, processes=2, script="train_distill.py")
    assert end.code == 0, end.log
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["processes"] == 2 and results["steps"] == 2


def test_uneven_split_tests_every_clip_once(
    ravdess_tree, arguments, train, tmp_path
):
    """Odd numbers of batches and clips; valid fits in one batch alone."""
    odd = tmp_path / "corpus"
    shutil.copytree(ravdess_tree, odd)
    clips = sorted(odd.rglob("03-01-0[1345]*.wav"))
    actors = {split: [] for split in ("train", "valid", "test")}
    for clip in clips:
        actor = int(clip.stem[-2:])
        split = "test" if actor < 6 else "valid" if actor > 20 else "train"
        actors[split].append(clip)
    for split, count in (("train", 35), ("valid", 8), ("test", 19)):
        for clip in actors[split][count:]:
            clip.unlink()
    for clip in actors["valid"][:8]:  # one length, one batch
        wav, rate = soundfile.read(clip)
        soundfile.write(clip, wav[:4800], rate)
    folder = tmp_path / "run"
    argv = arguments(
        folder,
        data_folder=odd,
        manifests_folder=None,
        distributed_backend="gloo",
        batch_seconds=2.5,
        keep="average",
        keep_best=2,
    )
    end = train(argv, processes=2)
    assert end.code == 0, end.log
    _, sets = datasets(folder / "manifests")
    batches = {name: len(eval_batches(sets[name], 2.5)) for name in sets}
    assert batches["valid"] == 1
    assert batches["train"] % 2 == batches["test"] % 2 == 1
    assert [row["id"] for row in rows(folder)] == sorted(
        clip.stem for clip in actors["test"][:19]
    )
    results = json.loads((folder / "results.json").read_text())
    assert results["processes"] == 2
    assert results["test_utterances"] == 19
    assert (folder / "train_log.txt").read_text().count("epoch: 1,") == 1


@pytest.mark.parametrize("backbone", ["hubert", "wavlm"])
def test_every_parameter_gets_its_gradient(
    tiny_backbones, arguments, train, tmp_path, backbone
):
    """DDP complains in the second step where one was left out.

    Whisper is in the other tests; wav2vec 2.0 has HuBERT's layers.
    """
    end = train(
        arguments(
            tmp_path / "run",
            backbone=tiny_backbones[backbone],
            distributed_backend="gloo",
            number_of_epochs=1,
        ),
        processes=2,
    )
    assert end.code == 0, end.log
    assert (tmp_path / "run" / "results.json").exists()


def test_one_process_fails_with_the_other(arguments, train, tmp_path):
    """In one line, with the exit status of bad input."""
    end = train(
        arguments(
            tmp_path / "run",
            data_folder=tmp_path / "nowhere",
            manifests_folder=None,
            distributed_backend="gloo",
        ),
        processes=2,
    )
    assert end.code == 2
    assert end.log.count("error: ") == 1
    # The other one may find the connection closed before it is stopped.
    assert "nowhere" in end.log and "InputError" not in end.log


def test_resumes_under_ddp(arguments, train, tmp_path):
    ends = {}
    for name in ("whole", "killed"):
        argv = arguments(
            tmp_path / name, distributed_backend="gloo", adapter_lr=0.005
        )
        if name == "killed":
            end = train(argv, processes=2, kill_at=("CKPT.yaml", 2))
            assert end.code == -9
        end = train(argv, processes=2)
        assert end.code == 0, end.log
        ends[name] = (tmp_path / name / "predictions.csv").read_bytes()
    assert ends["whole"] == ends["killed"]
