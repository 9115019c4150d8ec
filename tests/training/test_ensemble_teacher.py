"""DistillBrain: students of an ensemble."""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
from scipy.special import softmax
from sealed import reseal

from ser_peft.adapters import PeftLobe
from ser_peft.data import read_manifests
from ser_peft.data.provenance import RECORD, Heard
from ser_peft.errors import InputError
from ser_peft.heads import LinearHead
from ser_peft.inference import EmotionModel, load_model
from ser_peft.inference.export import assemble
from ser_peft.io import write_json
from ser_peft.lobes import load_lobe
from ser_peft.training.teacher import Teacher

PLAIN = {
    "hparams": "RAVDESS/hparams/whisper_kd.yaml",
    "augment": False,
    "crop": 1,
    "depth": 1,
    "start_from_probe": False,
    "label_smoothing": 0,
    "adapter_lr": 0.005,
    "head_lr": 0.01,
    "warmup_epochs": 0.5,
    "kd_weight": 1,
}


@pytest.fixture(scope="module")
def members(tiny_backbones, manifests, tmp_path_factory):
    """Two models with opinions, trained on `manifests`."""
    torch.manual_seed(0)
    about, _ = read_manifests(manifests)
    root, folders = tmp_path_factory.mktemp("members"), []
    for number, temperature in enumerate((1.6, 0.7)):
        method = peft.LoraConfig(r=2, init_lora_weights=False)
        encoder = PeftLobe(load_lobe(tiny_backbones["whisper"]), method)
        head = LinearHead(encoder, 4)
        head.state_dict()[[*head.state_dict()][-2]].mul_(5)
        model = EmotionModel(encoder, head, about["classes"], temperature)
        folders.append(root / str(number))
        model.save(folders[-1], Heard(*read_manifests(manifests)))
    return folders


@pytest.fixture(scope="module")
def teacher(members, tmp_path_factory):
    """Their ensemble."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    assemble(members, folder)
    return folder


@pytest.fixture
def student(arguments, brain_from, teacher, tmp_path):
    """Function: overrides -> a student, untrained."""

    def make(**overrides):
        how = {**PLAIN, "teacher": teacher} | overrides
        return brain_from(arguments(tmp_path / "student", **how))

    return make


def test_its_targets_are_the_mean_probabilities(members, teacher, manifests):
    about, _ = read_manifests(manifests)
    wavs, lens = torch.randn(2, 9000), torch.tensor([1.0, 0.5])
    logits, features, lengths = Teacher(teacher, about, "cpu")(
        wavs, lens, ["", ""], None
    )
    wanted = []
    for folder in members:
        model = load_model(folder)
        with torch.no_grad():
            own = model(wavs, torch.tensor([9000, 4500])).double().numpy()
        wanted.append(softmax(own / model.temperature, 1))
    np.testing.assert_allclose(
        logits.softmax(1).numpy(), np.mean(wanted, 0), atol=1e-6
    )
    assert features.shape == (2, 1, 0) and lengths.tolist() == [1, 1]


def test_a_student_comes_close(student, fit, manifests, tmp_path):
    brain = fit(
        student(
            number_of_epochs=3,
            cache_teacher="True",
            manifests_folder=shutil.copytree(manifests, tmp_path / "manifests"),
        )
    )
    losses = [past["train_loss"] for past in brain.history]
    assert losses[-1] < 0.7 * losses[0]
    heard = json.loads((brain.teacher.folder / RECORD).read_text())
    assert brain.heard.record["speakers"] == heard["speakers"]


def test_features_are_refused(student):
    with pytest.raises(InputError, match="is an ensemble.*feature_weight: 0"):
        student(feature_weight=1, features="fused")


def test_one_that_heard_test_speakers_is_refused(
    student, members, manifests, tmp_path
):
    """One member is enough."""
    _, splits = read_manifests(manifests)
    tested = {entry["speaker"] for entry in splits["test"].values()}
    other = shutil.copytree(members[1], tmp_path / "other")
    record = json.loads((other / RECORD).read_text())
    record["speakers"]["ravdess"].append(min(tested))
    write_json(other / RECORD, record)
    reseal(other)
    assemble([members[0], other], tmp_path / "made")
    with pytest.raises(InputError, match=f"has heard 1 of the {len(tested)}"):
        student(teacher=tmp_path / "made")
