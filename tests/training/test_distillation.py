"""DistillBrain: students of teachers; and training on real text."""

import json
import shutil

import pytest
import speechbrain as sb
import torch
import trees_a
from peft import LoraConfig
from pretend import DEVICE, pretend
from scripts import yaml_text
from torch.nn.functional import cross_entropy

from ser_peft.adapters import PeftLobe
from ser_peft.data import prepare, read_manifests
from ser_peft.data.provenance import Heard
from ser_peft.errors import InputError
from ser_peft.heads import LinearHead
from ser_peft.heads.fusion import FusionHead
from ser_peft.inference import EmotionModel, load_model
from ser_peft.io import write_json
from ser_peft.lobes import load_lobe, load_text
from ser_peft.training.objectives import distillation_losses, feature_losses
from ser_peft.training.teacher import Teacher

STUDENT = "RAVDESS/hparams/whisper_kd.yaml"
READER = "IEMOCAP/hparams/3mser_kd.yaml"
# On clips as they are, fast enough to see it learn.
PLAIN = {
    "augment": False,
    "crop": 1,
    "depth": 1,
    "start_from_probe": False,
    "label_smoothing": 0,
    "adapter_lr": 0.005,
    "head_lr": 0.01,
    "warmup_epochs": 0.5,
}
ALONE = {"kd_weight": 0, "feature_weight": 0}
NO_DROPOUT = ("dropout: 0.2", "dropout: 0.0")
# AdamW turns the rounding of gradients near zero into whole steps.
SGD = ("torch.optim.AdamW", "torch.optim.SGD")


@pytest.fixture(scope="session")
def new_student(arguments, brain_from):
    """Function: output folder, overrides -> a Brain, untrained.

    Of whisper_kd.yaml as `PLAIN` has it, unless told otherwise.
    """

    def make(output, **overrides):
        if overrides.get("hparams", STUDENT) == STUDENT:
            overrides = {"hparams": STUDENT, **PLAIN} | overrides
        return brain_from(arguments(output, **overrides))

    return make


def write_yaml(path, *changes, source=STUDENT):
    """A recipe's yaml with texts replaced."""
    text = yaml_text(source)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def as_run(model, folder, manifests):
    """Save a model as a finished training on these manifests leaves it."""
    model.save(folder / "model", Heard(*read_manifests(manifests)))
    return folder


@pytest.fixture(scope="session")
def teachers(tiny_backbones, tiny_texts, manifests, tmp_path_factory):
    """Runs on `manifests`: one that hears, one that reads too."""
    about, _ = read_manifests(manifests)
    folders = {}
    for name in ("hears", "reads"):
        torch.manual_seed(0)
        more = {}
        encoder = PeftLobe(
            load_lobe(tiny_backbones["whisper"]), LoraConfig(r=2)
        )
        if name == "hears":
            head = LinearHead(encoder, 4)
        else:
            text = load_text(tiny_texts["bert"], depth=2)
            more["text_encoder"] = PeftLobe(text, LoraConfig(r=2))
            head = FusionHead(encoder, 4, **more)
        head.state_dict()[[*head.state_dict()][-2]].mul_(5)  # has opinions
        folders[name] = as_run(
            EmotionModel(encoder, head, about["classes"], **more),
            tmp_path_factory.mktemp("teachers") / name,
            manifests,
        )
    return folders


def first_loss(brain):
    """Loss of the first training batch, and the batch."""
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.modules.train()
    batch = next(iter(brain.train_loader()))
    scores = brain.compute_forward(batch, sb.Stage.TRAIN)
    brain.scores = scores
    return brain.compute_objectives(scores, batch, sb.Stage.TRAIN), batch


def tensors(brain):
    """What trains, as it is now."""
    return {
        name: parameter.detach().clone()
        for name, parameter in brain.modules.named_parameters()
        if parameter.requires_grad
    }


# --------------------------------------------------------------------- loss


@pytest.mark.parametrize("features", ["audio", "fused"])
@pytest.mark.parametrize("augment", [False, True])
def test_nothing_to_learn_from_a_twin(
    new_student, manifests, tmp_path, features, augment
):
    """On the very clips that the student hears, augmented or not."""
    how = {
        "hparams": write_yaml(tmp_path / "a.yaml", NO_DROPOUT),
        **PLAIN,
        "augment": str(augment),
    }
    twin = as_run(
        new_student(tmp_path / "a", **how, **ALONE).model,
        tmp_path / "twin",
        manifests,
    )
    how |= {"teacher": twin, "feature_weight": 1, "features": features}
    brain = new_student(tmp_path / "b", **how, kd_weight=1)
    assert "projector" not in brain.modules
    assert first_loss(brain)[0].item() == pytest.approx(0, abs=1e-6)
    for encoder in brain.encoders.values():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1)
    assert first_loss(brain)[0] > 1e-3


def test_the_loss_has_three_parts(new_student, teachers, tmp_path):
    brain = new_student(
        tmp_path, teacher=teachers["hears"], kd_weight=0.3, temperature=3.0,
        feature_weight=0.7, features="fused",
    )  # fmt: skip
    loss, batch = first_loss(brain)
    wavs, lens = batch.sig
    logits, features, lengths = brain.teacher(wavs, lens, batch.text, "fused")
    labels = torch.tensor([*batch.label])
    expected = (
        0.7 * cross_entropy(brain.scores, labels, reduction="none")
        + 0.3 * distillation_losses(brain.scores, logits, 3.0)
        + 0.7 * feature_losses(brain.features, features, lengths)
    )  # four classes, equally large: all clips weigh one
    torch.testing.assert_close(loss, expected.mean())
    # [layers + 1, width] of the teacher's linear probe
    assert brain.features.shape == (len(wavs), 1, 3 * 32)
    loss.backward()
    for name, parameter in brain.modules.projector.named_parameters():
        assert parameter.grad.any(), name
    assert not any(p.grad is not None for p in brain.teacher.model.parameters())


def test_without_weights_no_teacher(new_student, tmp_path):
    brain = new_student(tmp_path / "a", **ALONE, cache_teacher="True")
    assert brain.teacher is None
    loss, batch = first_loss(brain)
    labels = torch.tensor([*batch.label])
    torch.testing.assert_close(loss, cross_entropy(brain.scores, labels))
    for weights in ({"kd_weight": 0.5}, {"feature_weight": 1}):
        with pytest.raises(InputError, match="--teacher=... is needed"):
            new_student(tmp_path / "b", **ALONE | weights)


@pytest.mark.parametrize("kind", ["text", "fused"])
def test_a_reader_learns_from_a_reader(
    new_student, tiny_texts, tiny_backbones, manifests, tmp_path, kind
):
    """As DistilSER does: the states of BERT's tokens, padded or not."""
    how = {
        "hparams": READER,
        "backbone": tiny_backbones["wavlm"],
        "text_backbone": tiny_texts["bert"],
        "manifests_folder": manifests,
        "number_of_epochs": 6,  # five are the head's
    }
    teacher = as_run(
        new_student(tmp_path / "a", **how, **ALONE, text_depth=3).model,
        tmp_path / "run",
        manifests,
    )
    how |= {"teacher": teacher, "features": kind, "cache_teacher": False}
    brain = new_student(tmp_path / "b", **how, kd_weight=0, text_depth=2)
    assert brain.model.text_encoder.num_layers == 2
    assert "projector" not in brain.modules
    # The same seed: no layer of the teacher's is missing but its last.
    text = brain.teacher.model.text_encoder
    _, batch = first_loss(brain)
    brain.modules.eval()
    wavs, lens = batch.sig
    brain.train_scores(wavs, lens, batch.text, batch)
    if kind == "text":
        with torch.no_grad():
            states, tokens = text(batch.text)
        assert torch.equal(brain.taught[1], states[-1])
        assert torch.equal(brain.taught[2], tokens)
        torch.testing.assert_close(brain.features, states[2])
    else:
        assert (
            brain.features.shape == brain.taught[1].shape == (len(wavs), 1, 128)
        )


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ([], {"text_backbone": "roberta"}, "cut texts into other tokens"),
        ([("crop: 1.0", "crop: 1.0\ndrop_text: 0.2")], {}, "drop_text: 0"),
    ],
)
def test_features_of_text_want_the_same_tokens(
    new_student, tiny_texts, tiny_backbones, manifests, teachers, tmp_path,
    changes, overrides, message,
):  # fmt: skip
    hparams = write_yaml(tmp_path / "a.yaml", *changes, source=READER)
    text_backbone = tiny_texts[overrides.get("text_backbone", "bert")]
    with pytest.raises(InputError, match=f"features: text: .*{message}"):
        new_student(
            tmp_path / "run", hparams=hparams, features="text",
            backbone=tiny_backbones["wavlm"], text_backbone=text_backbone,
            manifests_folder=manifests, text_depth=1, number_of_epochs=6,
            teacher=teachers["reads"],
        )  # fmt: skip


def test_features_of_text_want_a_text(new_student, teachers, tmp_path):
    for teacher in teachers.values():
        with pytest.raises(InputError, match="need a text encoder; choose"):
            new_student(
                tmp_path, teacher=teacher, feature_weight=1, features="text"
            )


# ----------------------------------------------------------------- training


def test_a_student_comes_close_to_its_teacher(
    new_student, fit, teachers, tmp_path
):
    brain = new_student(
        tmp_path, teacher=teachers["hears"], kd_weight=1, number_of_epochs=4
    )
    fit(brain)
    losses = [past["train_loss"] for past in brain.history]
    assert losses[-1] < 0.5 * losses[0]


def test_an_audio_student_of_a_reading_teacher(
    new_student, fit, teachers, manifests, tmp_path
):
    brain = new_student(
        tmp_path, teacher=teachers["reads"], feature_weight=1,
        features="fused", number_of_epochs=1,
    )  # fmt: skip
    before = tensors(brain)
    fit(brain)
    assert brain.model.text_encoder is None
    after = tensors(brain)
    assert any("projector" in name for name in after)
    for name, tensor in after.items():
        assert not torch.equal(tensor, before[name]), name
    brain.model.save(tmp_path / "model")
    (answer,) = load_model(tmp_path / "model").predict([torch.rand(4800)])
    assert set(answer["scores"]) == set(brain.about["classes"])
    assert not (tmp_path / "model" / "text_adapter").exists()


def test_stored_outputs_are_as_good_as_a_live_teacher(
    new_student, fit, teachers, manifests, tmp_path, monkeypatch
):
    folder = shutil.copytree(manifests, tmp_path / "manifests")
    how = {
        "hparams": write_yaml(tmp_path / "a.yaml", SGD),
        **PLAIN,
        "manifests_folder": folder,
        "adapter_lr": 0.1,
        "head_lr": 0.1,
        "teacher": teachers["reads"],
        "feature_weight": 1,
        "features": "fused",
    }
    live = new_student(tmp_path / "live", **how)
    before = tensors(live)
    fit(live)
    assert not list(folder.glob("teacher-*"))
    cached = fit(new_student(tmp_path / "a", **how, cache_teacher="True"))
    (path,) = folder.glob("teacher-*.safetensors")
    for name, tensor in tensors(cached).items():
        found = tensors(live)[name]
        torch.testing.assert_close(tensor, found, atol=3e-6, rtol=1e-4)
        assert (found - before[name]).abs().max() > 3e-5, name
    # Asked once: another student finds it all written.
    written = path.stat().st_mtime_ns
    monkeypatch.setattr(Teacher, "__call__", None)
    again = fit(new_student(tmp_path / "b", **how, cache_teacher="True"))
    assert path.stat().st_mtime_ns == written
    for name, tensor in tensors(again).items():
        assert torch.equal(tensor, tensors(cached)[name])


@pytest.mark.parametrize("cached", ["False", "True"])
def test_on_a_device_of_its_own(
    new_student, teachers, manifests, tmp_path, cached
):
    """Nothing of the CPU meets anything of a GPU."""
    losses = []
    for device in ("cpu", DEVICE):
        with pretend():
            brain = new_student(
                tmp_path, teacher=teachers["reads"], feature_weight=1,
                features="fused", cache_teacher=cached, device=device,
                manifests_folder=shutil.copytree(manifests, tmp_path / device),
            )  # fmt: skip
            if cached == "True":
                brain.cache = brain._cache()
            brain.init_optimizers()
            loader = brain.train_loader()
            brain.on_stage_start(sb.Stage.TRAIN, 1)
            brain.modules.eval()  # nothing random
            brain.step = 1
            losses.append(float(brain.fit_batch(next(iter(loader)))))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_cache_is_of_these_texts(new_student, teachers, manifests, tmp_path):
    """Transcribed anew, the reading teacher says something else."""
    for name in ("gold", "heard"):
        folder = shutil.copytree(manifests, tmp_path / name)
        if name == "heard":
            entries = json.loads((folder / "train.json").read_text())
            for entry in entries.values():
                entry["text"] = "dog"
            write_json(folder / "train.json", entries)
    found = {}
    for teacher in teachers:
        for name in ("gold", "heard"):
            brain = new_student(
                tmp_path / "run", teacher=teachers[teacher],
                cache_teacher="True", manifests_folder=tmp_path / name,
            )  # fmt: skip
            brain._cache()
            (path,) = (tmp_path / name).glob("teacher-*.safetensors")
            found[teacher, name] = path.name
            path.unlink()
    assert found["hears", "gold"] == found["hears", "heard"]
    assert found["reads", "gold"] != found["reads", "heard"]


@pytest.mark.parametrize(
    "changes",
    [{"augment": "True"}, {"max_seconds": 0.4}, {"mixing": 0.5}],
    ids=str,
)
def test_stored_lessons_want_clips_that_never_change(
    new_student, teachers, tmp_path, changes
):
    with pytest.raises(InputError, match="cache_teacher: wants training clips"):
        new_student(
            tmp_path, teacher=teachers["hears"], cache_teacher="True", **changes
        )


def test_what_is_said_in_a_mixture(new_student, teachers, tmp_path):
    with pytest.raises(InputError, match="mixing: the teacher reads what one"):
        new_student(tmp_path, teacher=teachers["reads"], mixing=0.5)


def test_a_killed_student_ends_as_if_nothing_had_happened(
    new_student, fit, teachers, tmp_path
):
    """With all that is random, and a projector."""
    how = {
        "teacher": teachers["hears"], "feature_weight": 1, "features": "fused",
        "augment": "True", "crop": 0.7, "number_of_epochs": 3,
    }  # fmt: skip
    whole = fit(new_student(tmp_path / "whole", **how))
    killed = new_student(tmp_path / "killed", **how)
    fit_batch, seen = killed.fit_batch, []

    def one_too_many(batch):
        seen.append(batch)
        if len(seen) > 2 * killed.steps + 1:
            raise KeyboardInterrupt
        return fit_batch(batch)

    killed.fit_batch = one_too_many
    with pytest.raises(KeyboardInterrupt):
        fit(killed)
    (path, *_) = (tmp_path / "killed" / "save").glob("CKPT*")
    assert (path / "projector.ckpt").exists()
    again = fit(new_student(tmp_path / "killed", **how))
    assert [past["epoch"] for past in again.history] == [1, 2, 3]
    for key in ("train_loss", "valid_loss"):
        assert again.history[-1][key] == whole.history[-1][key]
    found = tensors(again)
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensor, found[name]), name


ADALORA = {
    "method": "adalora",
    "peft": "{method: {init_r: 4, target_r: 2, tinit: 1, tfinal: 1, deltaT: 1, "
    "total_step: 100}}",
}


@pytest.mark.parametrize("changes", [{}, ADALORA], ids=["full", "adalora"])
def test_encoders_rest_at_first(new_student, fit, teachers, tmp_path, changes):
    """Also with a gradient scaler, as fp16 has on a GPU."""
    brain = new_student(
        tmp_path / "run", teacher=teachers["hears"], head_epochs=1, **changes
    )
    if not changes:
        brain.scaler = torch.GradScaler("cpu", init_scale=1.0)
    seen, rates, finish = [tensors(brain)], [], brain.finish_epoch

    def spy(*args, **more):
        seen.append(tensors(brain))
        finish(*args, **more)

    brain.finish_epoch = spy
    fit(brain)
    fresh, rested, trained = seen
    moved = 0
    for name, tensor in fresh.items():
        at_rest = name.startswith("encoder")
        assert torch.equal(tensor, rested[name]) == at_rest, name
        moved += not torch.equal(rested[name], trained[name])
    assert moved > 0.8 * len(fresh)  # AdaLoRA takes ranks away
    rates = [past["lr_adapter"] for past in brain.history]
    assert rates[1] < rates[0]  # the cosine, after a constant rate
    assert rates[0] == pytest.approx(PLAIN["adapter_lr"])


def test_no_plateau_before_all_trains(new_student, tmp_path):
    brain = new_student(
        tmp_path / "run", **ALONE, head_epochs=7, schedule="plateau",
        number_of_epochs=9,
    )  # fmt: skip
    brain.train_loader()
    brain.init_optimizers()
    brain.history.extend({"valid_loss": 1.0} for _ in range(7))
    brain.epoch, brain.step = 8, brain.steps
    brain.on_fit_batch_start(None, True)
    assert brain.learning_rates()["lr_adapter"] == PLAIN["adapter_lr"]


def test_an_epoch_is_left_for_the_encoders(new_student, tmp_path):
    with pytest.raises(InputError, match="head_epochs: 2 leaves no epoch"):
        new_student(tmp_path / "run", head_epochs=2, **ALONE)


def test_two_processes_train_one_student(
    arguments, train, teachers, manifests, tmp_path
):
    """Lessons are gathered, the projector is one."""
    folder = shutil.copytree(manifests, tmp_path / "manifests")
    argv = arguments(
        tmp_path / "run", STUDENT, **PLAIN, teacher=teachers["reads"],
        feature_weight=1, features="fused", cache_teacher="True",
        number_of_epochs=1, manifests_folder=folder,
        distributed_backend="gloo",
    )  # fmt: skip
    end = train(argv, processes=2, script="train_distill.py")
    assert end.code == 0, end.log
    assert end.log.count("test UA") == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["processes"] == 2
    assert results["distillation"] == {
        "teacher": str(teachers["reads"] / "model"),
        "kd_weight": 0.9,
        "temperature": 2.0,
        "feature_weight": 1,
        "features": "fused",
        "cached": True,
    }
    assert len(list(folder.glob("teacher-*"))) == 1
    assert load_model(tmp_path / "run").encoder.lobe.depth == 1


def test_text_and_fusion_go_together(
    new_student, tiny_texts, tiny_backbones, manifests, tmp_path
):
    hparams = write_yaml(
        tmp_path / "a.yaml",
        # Of the modules, the first that are listed in this way.
        (" text_encoder: !ref <text_encoder>,\n     head", "\n     head"),
        source="IEMOCAP/hparams/wavlm_bert.yaml",
    )
    with pytest.raises(InputError, match="head: FusionHead: .* go together"):
        new_student(
            tmp_path / "run", hparams=hparams,
            backbone=tiny_backbones["wavlm"], manifests_folder=manifests,
            text_backbone=tiny_texts["electra"],
        )  # fmt: skip


# ---------------------------------------------------------------- real text


def test_real_text(new_student, fit, minilm, tiny_backbones, tmp_path_factory):
    """Learns 16 utterances by heart, whatever their batch, text or none."""
    root = tmp_path_factory.mktemp("real")
    trees_a.iemocap_tree(root / "IEMOCAP")
    prepare("iemocap", root / "IEMOCAP", root / "manifests")
    path = root / "manifests" / "train.json"
    entries, few = json.loads(path.read_text()), {}
    for emotion in ("neutral", "angry", "sad", "happy"):
        kept = [k for k, e in entries.items() if e["emotion"] == emotion][:4]
        few |= {key: entries[key] for key in kept}
    assert len(few) == 16
    write_json(path, few)
    brain = new_student(
        root / "run",
        hparams="IEMOCAP/hparams/wavlm_bert.yaml",
        data_folder=root / "IEMOCAP",
        manifests_folder=root / "manifests",
        backbone=tiny_backbones["wavlm"],
        text_backbone=minilm,
        augment=False,
        crop=1,
        drop_text=0,
        label_smoothing=0,
        number_of_epochs=10,
        patience=10,
        keep="last",
        adapter_lr=0.002,
        head_lr=0.005,
        batch_seconds=4,
    )
    fit(brain)
    assert brain.history[0]["train_loss"] > 1
    assert brain.history[-1]["train_loss"] < 0.05
    brain.evaluate(brain.eval_loader("train"))
    assert brain.measured["scores"]["wa"] == 1
    assert brain.measured["predicted"] == brain.measured["label"]

    model = brain.model.eval()
    batch = next(iter(brain.eval_loader("train")))
    wavs, lens = batch.sig
    samples = (lens * wavs.shape[1]).round().long()
    texts = [*batch.text]
    texts[0] = "Well, " * 9 + texts[0]
    with torch.no_grad():
        together = model(wavs, samples, texts)
        for i, length in enumerate(samples):
            alone = model(wavs[i : i + 1, :length], None, texts[i : i + 1])
            torch.testing.assert_close(
                together[i : i + 1], alone, atol=1e-4, rtol=1e-4
            )
        silent = model(wavs, samples)
    assert silent.isfinite().all()
    assert not torch.allclose(silent, together, atol=1e-2)
    for answer in model.predict([*wavs[:2]]):
        assert sum(answer["scores"].values()) == pytest.approx(1)
