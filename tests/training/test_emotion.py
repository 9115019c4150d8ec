"""EmotionBrain, from batch to report."""

import csv
import json
import math
import re
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import speechbrain as sb
import torch
from safetensors.torch import load_file
from scripts import run_script, yaml_text

import ser_peft.data.batches
from ser_peft.data import datasets, eval_batches, prepare
from ser_peft.errors import InputError
from ser_peft.evaluation.results import headline
from ser_peft.inference import load_model
from ser_peft.training.probe import fit_probe, pool_with, pooled_states

# From scratch, on clips as they are, fast enough to see it learn.
PLAIN = {
    "augment": False,
    "crop": 1,
    "start_from_probe": False,
    "label_smoothing": 0,
    "adapter_lr": 0.005,
    "head_lr": 0.01,
    "warmup_epochs": 0.5,
}


def test_clips_that_are_slowed_down_still_fit(new_brain, tmp_path, monkeypatch):
    """Whisper takes 30 s; a clip of 28 s at 0.9 of its speed has 31 s."""
    brain = new_brain(tmp_path / "run")
    batch = next(iter(brain.train_loader()))
    longest = batch.sig.data.shape[1]
    monkeypatch.setattr(brain.encoder.lobe, "max_samples", longest)
    monkeypatch.setattr(
        brain.hparams,
        "wav_augment",
        lambda wavs, lens: (wavs.repeat(1, 2)[:, : longest + 500], lens),
    )
    scores = brain.compute_forward(batch, sb.Stage.TRAIN)
    assert scores.shape == (len(batch), 4)


def predictions(folder):
    """Rows of predictions.csv."""
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def checkpoints(folder):
    """Epoch -> checkpoint folder."""
    found = {}
    for path in (folder / "save").glob("CKPT*"):
        text = (path / "CKPT.yaml").read_text()
        found[int(re.search(r"epoch: (\d+)", text)[1])] = path
    return found


def write_yaml(path, *changes, source="whisper_lora"):
    """A recipe's yaml with texts replaced."""
    text = yaml_text(f"RAVDESS/hparams/{source}.yaml")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    """A finished run, the settings it had, and every audio file it read."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    argv = arguments(folder, **PLAIN, number_of_epochs=4, keep="best")
    reads = []
    with pytest.MonkeyPatch.context() as patch:
        read_audio = ser_peft.data.batches.read_audio

        def spy(path):
            reads.append(Path(path).stem)
            return read_audio(path)

        patch.setattr(ser_peft.data.batches, "read_audio", spy)
        run_script(argv)
    return folder, argv, reads


def test_learns(finished):
    folder, _, _ = finished
    last = checkpoints(folder)[4]
    history = json.loads((last / "history.ckpt").read_text())
    assert [past["epoch"] for past in history] == [1, 2, 3, 4]
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]
    assert max(past["valid_ua"] for past in history) > 0.5  # chance is 0.25


def test_results_are_complete(finished, manifests):
    folder, _, _ = finished
    results = json.loads((folder / "results.json").read_text())
    assert set(results) >= set(
        "corpus protocol protocol_sha fold seed backbone method classes ua "
        "ua_ci95 wa macro_f1 weighted_f1 per_class_recall confusion "
        "test_utterances test_speakers trainable_parameters total_parameters "
        "valid_ua best_epoch epochs train_seconds peak_memory_mb "
        "versions".split()
    )
    about = json.loads((manifests / "protocol.json").read_text())
    assert results["protocol_sha"] == about["protocol_sha"]
    assert results["classes"] == about["classes"]
    assert set(results["trainable_parameters"]) == {"adapter", "head"}
    assert results["test_speakers"] == ["01", "02", "03", "04", "05"]
    assert results["epochs"] == 4
    low, high = results["ua_ci95"]
    assert 0 <= low <= results["ua"] <= high <= 1
    assert results["train_seconds"] > 0
    for name in ("confusion.png", "report.html", "train_log.txt"):
        assert (folder / name).stat().st_size


def test_best_epoch_is_kept(finished):
    folder, _, _ = finished
    results = json.loads((folder / "results.json").read_text())
    last = checkpoints(folder)[4]
    history = json.loads((last / "history.ckpt").read_text())
    best = max(
        history, key=lambda past: (past["valid_ua"], -past["valid_loss"])
    )
    assert results["best_epoch"] == best["epoch"]
    assert results["valid_ua"] == best["valid_ua"]
    assert set(checkpoints(folder)) == {best["epoch"], 4}
    head = load_file(checkpoints(folder)[best["epoch"]] / "head.ckpt")
    kept = load_file(folder / "model" / "head.safetensors")
    assert all(torch.equal(head[name], kept[name]) for name in head)


def test_saved_model_gives_the_predictions(finished, ravdess_tree):
    folder, _, _ = finished
    rows = predictions(folder)
    results = json.loads((folder / "results.json").read_text())
    assert len({row["id"] for row in rows}) == len(rows) == 20
    recalls = [
        np.mean(
            [row["predicted"] == name for row in rows if row["label"] == name]
        )
        for name in results["classes"]
    ]
    assert results["ua"] == pytest.approx(np.mean(recalls))
    model = load_model(folder)
    assert model.temperature == results["calibration"]["temperature"]
    assert model.unsure == results["calibration"]["unsure"]
    answers = model.predict(
        [
            ravdess_tree / f"Actor_{row['speaker']}" / f"{row['id']}.wav"
            for row in rows
        ]
    )
    for row, answer in zip(rows, answers, strict=True):
        assert row["predicted"] == answer["label"]
        for ending, key in (("", "uncalibrated"), ("_calibrated", "scores")):
            for name, score in answer[key].items():
                written = float(row[f"{name}{ending}"])
                assert written == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("wanted", ["auto", "False"])
def test_mistakes_can_be_heard(arguments, tmp_path, wanted):
    """Of a head that learns nothing."""
    given = PLAIN | {"head_lr": 0, "adapter_lr": 0, "report_audio": wanted}
    run_script(arguments(tmp_path / "run", **given, number_of_epochs=1))
    rows = predictions(tmp_path / "run")
    wrong = sum(row["label"] != row["predicted"] for row in rows)
    page = (tmp_path / "run" / "report.html").read_text()
    assert wrong
    assert page.count("<audio") == (wanted == "auto") * min(10, wrong)


def test_test_set_is_read_once_and_last(finished, manifests):
    _, _, reads = finished
    test = json.loads((manifests / "test.json").read_text())
    train_set = json.loads((manifests / "train.json").read_text())
    assert sorted(name for name in reads if name in test) == sorted(test)
    # Train and valid once, for what does not train; at the end valid for the
    # model that is kept.
    assert len(reads) == len(train_set) + 2 * 16 + len(test)
    first = min(reads.index(name) for name in test)
    assert not set(reads[first:]) & set(train_set)


def test_second_start_of_a_finished_run_does_nothing(finished, capsys):
    folder, argv, _ = finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    run_script(argv)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("--seed=9", "seed"),
        ("--adapter_lr=0.1", "adapter_lr"),
        ("--precision=bf16", "precision"),
        ("--grad_accumulation_factor=2", "grad_accumulation_factor"),
        ("--debug", "debug"),
        ("--encoder={targets: ffn}", "encoder"),
    ],
)
def test_folder_of_other_settings_is_refused(finished, capsys, override, key):
    folder, argv, _ = finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    flag = override.split("=")[0]
    kept = [given for given in argv if given.split("=")[0] != flag]
    with pytest.raises(SystemExit) as stop:
        run_script([*kept, override])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    assert f"'{key}'" in error and str(folder) in error
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_what_does_not_matter_may_change(finished, capsys, tmp_path):
    _, argv, _ = finished
    run_script(
        [
            "--num_workers=2" if given == "--num_workers=0" else given
            for given in argv
            if given != "--noprogressbar"
        ]
    )
    assert "finished" in capsys.readouterr().out


def test_files_are_as_small_as_what_trains(arguments, tmp_path):
    """On a backbone that is large beside its adapter."""
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperModel,
    )

    torch.manual_seed(0)
    backbone = WhisperModel(
        WhisperConfig(
            vocab_size=8,
            d_model=128,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=2048,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    )
    backbone.save_pretrained(tmp_path / "backbone")
    WhisperFeatureExtractor().save_pretrained(tmp_path / "backbone")
    hparams = write_yaml(
        tmp_path / "small.yaml", ("ProbeMixHead", "LinearHead")
    )
    folder = tmp_path / "run"
    run_script(
        arguments(
            folder,
            hparams,
            backbone=tmp_path / "backbone",
            peft="{method: {r: 2}}",
            number_of_epochs=1,
            start_from_probe=False,
        )
    )
    results = json.loads((folder / "results.json").read_text())
    trained = 4 * sum(results["trainable_parameters"].values())
    assert 4 * results["total_parameters"] > 20 * trained
    (checkpoint,) = checkpoints(folder).values()
    saved = sum(
        path.stat().st_size
        for path in checkpoint.iterdir()
        if not path.name.endswith("opt.ckpt")
    )
    model = sum(
        path.stat().st_size
        for path in (folder / "model").rglob("*")
        if path.is_file()
    )
    assert saved < 3 * trained
    assert model < 3 * trained


# ------------------------------------------------------------------- pieces


@pytest.mark.parametrize("columns", [["emotion"], ["gender", "emotion"]])
def test_weights_are_one_on_average(new_brain, ravdess_tree, tmp_path, columns):
    # Calm counts as neutral: one class is twice as large as the others.
    prepare("ravdess", ravdess_tree, tmp_path / "seven", classes=7)
    hparams = write_yaml(
        tmp_path / "a.yaml", ("keep: ", f"balance: {columns}\nkeep: ")
    )
    brain = new_brain(
        tmp_path / "run",
        hparams=hparams,
        manifests_folder=tmp_path / "seven",
        classes=7,
    )
    sums, weights = Counter(), []
    for id_, entry in brain.sets["train"].data.items():
        weights.append(brain.weight_of[id_])
        sums[tuple(entry[column] for column in columns)] += weights[-1]
    assert len(weights) == 15 * 8
    assert np.mean(weights) == pytest.approx(1)
    assert len(sums) == 7 * len(columns)
    assert [*sums.values()] == pytest.approx(
        [len(weights) / len(sums)] * len(sums)
    )
    # Seven actors of the fifteen are women.
    twice = brain.weight_of["03-01-05-01-01-01-06"]
    assert twice == 2 * brain.weight_of["03-01-02-01-01-01-06"]
    assert brain.weight_of["03-01-05-01-01-01-02"] == twice  # a test clip


@pytest.mark.parametrize(
    ("columns", "message"),
    [(["corpus"], "no 'corpus'; it has .*emotion"), ("emotion", "no list")],
)
def test_balance_of_what_is_not_there(new_brain, tmp_path, columns, message):
    hparams = write_yaml(
        tmp_path / "a.yaml", ("keep: ", f"balance: {columns}\nkeep: ")
    )
    with pytest.raises(InputError, match=f"balance: .*{message}"):
        new_brain(tmp_path / "run", hparams=hparams)


def batch_of(labels):
    """What is read of a batch."""
    return type(
        "Batch",
        (),
        {
            "label": torch.tensor(labels),
            "id": list("abcd"),
            "speaker": list("wxyz"),
        },
    )()


def test_labels_are_smoothed_in_training_only(new_brain, tmp_path):
    brain = new_brain(tmp_path, **PLAIN | {"label_smoothing": 0.2})
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0])
    brain.weight_of = dict(zip("abcd", weights.tolist(), strict=True))
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    labels = [0, 1, 2, 3]
    batch = batch_of(labels)
    brain.on_stage_start(sb.Stage.VALID)
    logs = logits.log_softmax(-1)
    hard = -logs.diagonal() * weights
    loss = brain.compute_objectives(logits, batch, sb.Stage.VALID)
    assert float(loss) == pytest.approx(float(hard.mean()))
    soft = -(0.8 * logs.diagonal() + 0.2 * logs.mean(1)) * weights
    loss = brain.compute_objectives(logits, batch, sb.Stage.TRAIN)
    assert float(loss) == pytest.approx(float(soft.mean()))


def test_loss_is_the_mean_over_all_processes(new_brain, tmp_path, monkeypatch):
    """DDP averages over processes, whose batches may differ in size."""
    brain = new_brain(tmp_path, **PLAIN)
    brain.weight_of = dict.fromkeys("abcd", 1.0)
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.on_stage_start(sb.Stage.VALID)
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    mean = brain.compute_objectives(logits, batch_of([0, 1, 2, 3]), None)
    brain.world = 2
    monkeypatch.setattr(  # the other process has 6 clips
        torch.distributed, "all_reduce", lambda count: count.add_(6)
    )
    ours = brain.compute_objectives(
        logits, batch_of([0, 1, 2, 3]), sb.Stage.TRAIN
    )
    # Averaged with the other's, 6 m' x 2 / 10: (4 m + 6 m') / 10.
    assert float(ours) == pytest.approx(float(mean) * 4 * 2 / 10)


def test_clips_one_norm_over_both_optimisers(new_brain, tmp_path):
    brain = new_brain(tmp_path, **PLAIN, max_grad_norm=1.0)
    brain.init_optimizers()
    generator = torch.Generator().manual_seed(0)
    groups = {
        name: optimizer.param_groups[0]["params"]
        for name, optimizer in brain.optimizers_dict.items()
    }
    assert set(groups) == {"adapter_opt", "head_opt"}
    trained = {id(p) for p in brain.modules.parameters() if p.requires_grad}
    assert {id(p) for ps in groups.values() for p in ps} == trained
    for parameters in groups.values():
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    before = {
        name: torch.cat([p.grad.flatten() for p in parameters])
        for name, parameters in groups.items()
    }
    whole = torch.cat(list(before.values())).norm()
    after = {}

    def spy(step):
        for name, parameters in groups.items():
            after[name] = torch.cat([p.grad.flatten() for p in parameters])

    brain.model.encoder.on_step = spy
    brain.optimizers_step()
    assert whole > 10
    for name in groups:
        assert torch.allclose(after[name], before[name] / whole, atol=1e-6)
    assert all(p.grad is None for ps in groups.values() for p in ps)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_learning_rates(new_brain, tmp_path, schedule):
    brain = new_brain(
        tmp_path,
        **PLAIN | {"warmup_epochs": 1.5},
        schedule=schedule,
        number_of_epochs=4,
    )
    brain.train_loader()
    brain.init_optimizers()
    steps = len(brain.train_sampler)
    brain.history.extend({"valid_loss": 1.0} for _ in range(7))
    seen = []
    for brain.epoch in range(1, 5):
        for brain.step in range(1, steps + 1):
            brain.on_fit_batch_start(None, True)
            seen.append(
                [
                    optimizer.param_groups[0]["lr"]
                    for optimizer in brain.optimizers_dict.values()
                ]
            )
    for index, (adapter, head) in enumerate(seen):
        warm = min(1, (index + 1) / (1.5 * steps))
        shape = {
            "constant": 1,
            "cosine": 0.5 * (1 + math.cos(math.pi * index / (4 * steps))),
            "plateau": 0.5,
        }[schedule]
        assert adapter == pytest.approx(0.005 * warm * shape)
        assert head == pytest.approx(0.01 * warm * shape)


def test_accumulation_counts_the_optimisers_steps(new_brain, tmp_path):
    brain = new_brain(
        tmp_path,
        **PLAIN | {"warmup_epochs": 1},
        schedule="constant",
        grad_accumulation_factor=3,
    )
    brain.train_loader()
    brain.init_optimizers()
    assert brain.steps == len(brain.train_sampler) // 3 >= 2
    rates = []
    brain.epoch = 1
    for step in range(1, 1 + 3 * brain.steps):
        brain.step = step
        brain.on_fit_batch_start(None, step % 3 == 0)
        rates.append(brain.optimizers_dict["head_opt"].param_groups[0]["lr"])
    ramp = [0.01 * (step + 1) / brain.steps for step in range(brain.steps)]
    assert rates == pytest.approx(np.repeat(ramp, 3))


def test_accumulation_of_more_than_an_epoch(new_brain, tmp_path):
    brain = new_brain(tmp_path, **PLAIN, grad_accumulation_factor=99)
    with pytest.raises(InputError, match="grad_accumulation_factor: 99"):
        brain.train_loader()


def test_optimiser_with_bad_arguments(new_brain, tmp_path):
    with pytest.raises(InputError, match="adapter_opt: .*momentum"):
        new_brain(tmp_path, **PLAIN, adapter_opt="{momentum: 3}")


def test_keeps_best_last_or_average(new_brain, fit, tmp_path):
    brain = fit(new_brain(tmp_path, **PLAIN, number_of_epochs=4, keep_best=2))
    saved = checkpoints(tmp_path)
    ranks = {}
    for past in brain.history:
        ranks[past["epoch"]] = past["valid_ua"], -past["valid_loss"]
    best = sorted(ranks, key=ranks.get, reverse=True)[:2]
    assert set(saved) == {*best, 3, 4}
    expected = {"best": best[:1], "last": [4], "average": best}
    for keep, epochs in expected.items():
        brain.hparams.keep = keep
        brain.load_kept()
        assert brain.kept_epochs == sorted(epochs)
        brain.model.encoder.save(tmp_path / "encoder")
        brain.model.head.save(tmp_path / "head")
        for name in ("encoder", "head"):
            found = load_file(tmp_path / name)
            files = [load_file(saved[e] / f"{name}.ckpt") for e in epochs]
            assert set(found) == set(files[0])
            for key, tensor in found.items():
                mean = sum(file[key].double() for file in files) / len(files)
                assert torch.allclose(tensor.double(), mean, atol=1e-7), key
        # What was trained stays known.
        assert [past["epoch"] for past in brain.history] == [1, 2, 3, 4]
    mixed = load_file(saved[best[0]] / "encoder.ckpt")
    other = load_file(saved[best[1]] / "encoder.ckpt")
    assert any(not torch.equal(mixed[key], other[key]) for key in mixed)


def test_stops_when_valid_does_not_improve(arguments, tmp_path):
    folder = tmp_path / "run"
    still = PLAIN | {"adapter_lr": 0, "head_lr": 0, "weight_decay": 0}
    run_script(
        arguments(folder, **still, number_of_epochs=9, patience=2, keep="best")
    )
    results = json.loads((folder / "results.json").read_text())
    assert results["epochs"] == 3
    assert results["best_epoch"] == 1


@pytest.mark.parametrize("head", ["ProbeMixHead", "LinearHead"])
def test_starts_from_the_probe(new_brain, manifests, tmp_path, head):
    hparams = write_yaml(tmp_path / "a.yaml", ("ProbeMixHead", head))
    brain = new_brain(tmp_path / "run", hparams=hparams)
    _, whole = datasets(manifests)
    pooled = {}
    for split in ("train", "valid"):
        states, clips = pooled_states(
            brain.eval_loader(split, whole), pool_with(brain.model.encoder)
        )
        pooled[split] = states, [label for _, _, label in clips], clips
    probe = fit_probe(pooled["train"][:2], pooled["valid"][:2], 4)
    brain.start_from_probe()
    brain.hparams.keep = "best"
    brain.evaluate(brain.eval_loader("valid"), progressbar=False)
    assert brain.measured["scores"]["ua"] == pytest.approx(probe.valid_ua)
    states, _, clips = pooled["valid"]
    features = ((states - probe.mean) / probe.deviation).flatten(1)
    logits = features @ probe.weight.T + probe.bias
    by_id = dict(zip([c[0] for c in clips], logits.softmax(-1), strict=True))
    for key, found in zip(
        brain.measured["id"], brain.measured["probabilities"], strict=True
    ):
        assert np.allclose(found, by_id[key], atol=1e-4)


def test_probe_needs_a_head_that_has_one(new_brain, tmp_path):
    hparams = write_yaml(tmp_path / "a.yaml", ("ProbeMixHead", "LayerMixHead"))
    brain = new_brain(tmp_path / "run", hparams=hparams)
    with pytest.raises(InputError, match="LayerMixHead has no probe"):
        brain.on_fit_start()


def test_scores_do_not_depend_on_the_batches(new_brain, tmp_path):
    brain = new_brain(tmp_path)
    brain.start_from_probe()
    found, sizes = [], []
    for seconds in (0.1, 1.5, 1000):
        brain.hparams.batch_seconds = seconds
        sizes.append(len(eval_batches(brain.sets["test"], seconds)))
        brain.evaluate(brain.eval_loader("test"), progressbar=False)
        found.append(brain.measured)
    assert sizes[0] == 20 > sizes[1] > sizes[2]
    for other in found[1:]:
        assert other["id"] == found[0]["id"]
        assert np.allclose(
            other["probabilities"], found[0]["probabilities"], atol=1e-4
        )
        assert other["loss"] == pytest.approx(found[0]["loss"], abs=1e-4)


ADALORA = {
    "method": "adalora",
    "peft": "{method: {init_r: 4, target_r: 2, tinit: 1, tfinal: 2, deltaT: 1, "
    "total_step: 100}}",
}


@pytest.mark.parametrize(
    "overrides",
    [
        {"precision": "bf16"},
        {"keep": "best", **ADALORA},
        {"method": "combined"},
        {"method": "frozen"},
        {"method": "full", "grad_accumulation_factor": 2},
    ],
    ids=["lora-bf16", "adalora", "combined", "frozen", "full"],
)
def test_every_method_trains(new_brain, fit, ravdess_tree, tmp_path, overrides):
    brain = new_brain(tmp_path / "run", **overrides)
    before = {
        name: parameter.detach().clone()
        for name, parameter in brain.model.named_parameters()
    }
    brain = fit(brain)
    for name, parameter in brain.model.named_parameters():
        changed = not torch.equal(parameter, before[name])
        if "lora_E" not in name:  # AdaLoRA may have given it no rank at all
            assert changed == parameter.requires_grad, name
    results = brain.evaluate_kept()
    brain.report([])
    assert results["epochs"] == 2
    assert (results["trainable_parameters"]["adapter"] > 0) == (
        overrides.get("method") != "frozen"
    )
    rows = predictions(tmp_path / "run")
    model = load_model(tmp_path / "run")
    answers = model.predict(
        [
            ravdess_tree / f"Actor_{row['speaker']}" / f"{row['id']}.wav"
            for row in rows
        ]
    )
    for row, answer in zip(rows, answers, strict=True):
        for name, score in answer["uncalibrated"].items():
            assert float(row[name]) == pytest.approx(score, abs=1e-4)


def test_report_of_robustness_and_fairness(new_brain, fit, tmp_path):
    settings = {"robustness": "True", "fairness_columns": "[text]"}
    brain = new_brain(tmp_path / "run", **PLAIN, **settings, keep="last")
    results = fit(brain).evaluate_kept()
    brain.report([])
    assert set(results["fairness"]) == {"gender", "text"}
    assert list(results["robustness"]) == [
        *(f"babble {snr} dB" for snr in (20, 10, 5, 0)),
        "telephone",
    ]
    assert results["robustness"]["babble 0 dB"] < results["ua"]
    # The tables are those of the test set as it is.
    rows = predictions(tmp_path / "run")
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert results["wa"] == pytest.approx(right)
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert written["robustness"] == results["robustness"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Robustness" in page and "Calibration" in page


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fairness_columns", "[race]", "test manifest has no 'race'"),
        ("fairness_columns", "[wav]", "'wav' has 20 values"),
        ("fairness_columns", "gender", r"write \[gender\]"),
        ("robustness", "1 dB", "robustness: 1 dB is not one of False, True"),
    ],
)
def test_a_report_that_cannot_be_made_is_refused_before_training(
    new_brain, tmp_path, key, value, message
):
    with pytest.raises(InputError, match=message):
        new_brain(tmp_path / "run", **{key: value})


def test_weights_of_different_ranks_have_no_mean(new_brain, tmp_path, caplog):
    with pytest.raises(InputError, match="average does not go with AdaLoRA"):
        new_brain(tmp_path / "run", **ADALORA | {"keep": "average"})
    brain = new_brain(tmp_path / "run", **ADALORA | {"ema_decay": 0.9})
    assert "ema_decay does not go with AdaLoRA" in caplog.text
    brain.init_optimizers()
    assert brain.average is None


def test_diverged_training_stops_in_one_line(new_brain, fit, tmp_path):
    brain = new_brain(tmp_path, **PLAIN | {"adapter_lr": 1e30, "head_lr": 1e30})
    with pytest.raises(InputError, match=r"loss is nan; lower adapter_lr"):
        fit(brain)


def test_nonfinite_gradients_can_be_skipped(new_brain, tmp_path):
    brain = new_brain(tmp_path, **PLAIN, skip_nonfinite_grads=True)
    brain.init_optimizers()
    before = {
        name: parameter.detach().clone()
        for name, parameter in brain.model.named_parameters()
    }
    for parameter in brain.model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    brain.optimizers_step()
    for name, parameter in brain.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_step_that_the_scaler_skips(new_brain, fit, tmp_path, monkeypatch):
    """AdaLoRA's averages would be NaN for good."""
    monkeypatch.setattr(
        torch, "GradScaler", lambda *_, **__: torch.amp.GradScaler("cpu")
    )

    def make():
        return new_brain(
            tmp_path / "run", **ADALORA, keep="best", number_of_epochs=1
        )

    brain = make()
    parameter = next(p for p in brain.encoder.parameters() if p.requires_grad)
    parameter.register_hook(
        lambda gradient: gradient * math.inf if brain.step == 2 else gradient
    )
    fit(brain)
    assert brain.optimizer_step == brain.steps - 1 > 1
    assert brain.scaler.get_scale() == 2**15
    for name, tensor in brain.encoder._tensors().items():
        assert tensor.isfinite().all(), name
    saved = checkpoints(tmp_path / "run")[1] / "scaler.ckpt"
    assert json.loads(saved.read_text())["scale"] == 2**15
    again = make()
    again.init_optimizers()
    again.checkpointer.recover_if_possible()
    assert again.scaler.state_dict() == brain.scaler.state_dict()


def test_results_come_last(arguments, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    argv = arguments(folder, **PLAIN, number_of_epochs=1)

    def broken(*_, **__):
        raise RuntimeError("no report today")

    monkeypatch.setattr("ser_peft.training.tested.write_report", broken)
    with pytest.raises(RuntimeError, match="no report today"):
        run_script(argv)
    assert not (folder / "results.json").exists()
    monkeypatch.undo()
    run_script(argv)
    results = json.loads((folder / "results.json").read_text())
    assert results["epochs"] == 1


def test_only_tests_a_trained_run(arguments, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    argv = arguments(folder, **PLAIN, keep="best")
    with pytest.raises(SystemExit):
        run_script([*argv, "--test_only"])
    assert "holds no checkpoint; train first" in capsys.readouterr().err
    monkeypatch.setattr(
        "ser_peft.training.emotion.EmotionBrain.report", lambda self: 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        run_script(argv)
    monkeypatch.undo()
    run_script([*argv, "--test_only"])
    results = json.loads((folder / "results.json").read_text())
    assert results["epochs"] == 2


# ---------------------------------------------------------------- the start


def started(new_brain, folder, **settings):
    """A Brain whose last epoch is worse than the probe it starts from."""
    return new_brain(
        folder,
        **PLAIN
        | {
            "start_from_probe": "True",
            "number_of_epochs": 2,
            "adapter_lr": 3,  # wrecks it
            "head_lr": 3,
        }
        | settings,
    )


def test_the_start_is_a_candidate(new_brain, fit, tmp_path):
    brain = fit(started(new_brain, tmp_path / "best", keep="best"))
    results = brain.evaluate_kept()
    brain.report()
    start = results["start"]
    assert start["from"] == "linear probe"
    assert max(past["valid_ua"] for past in brain.history) < start["valid_ua"]
    assert results["kept"] == "best valid UA: the linear probe"
    assert (results["best_epoch"], results["epochs"]) == (0, 2)
    assert results["valid_ua"] == start["valid_ua"]
    assert results["ua"] == start["ua"]
    assert f"its start (linear probe) UA {start['ua']:.3f}" in headline(results)
    page = (tmp_path / "best" / "report.html").read_text()
    assert "Below its start" not in page
    assert re.search(r"<t[dh][^>]*>0</t[dh]>", page)  # a row of the epochs


def test_ending_below_the_start_is_said(
    new_brain, fit, tmp_path, caplog, monkeypatch
):
    """Also where a kill came between, before the first epoch's end."""
    whole = fit(started(new_brain, tmp_path / "a", keep="last"))
    brain = started(new_brain, tmp_path / "b", keep="last")
    monkeypatch.setattr(brain, "fit_batch", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fit(brain)
    assert [*checkpoints(tmp_path / "b")] == [0]
    again = fit(started(new_brain, tmp_path / "b", keep="last"))
    results = [brain.evaluate_kept() for brain in (whole, again)]
    assert results[0]["start"] == results[1]["start"]
    assert results[0]["ua"] == results[1]["ua"]
    assert results[0]["valid_ua"] < results[0]["start"]["valid_ua"]
    (message, _) = [m for m in caplog.messages if m.startswith("keep: last:")]
    assert "on valid the kept model has UA" in message
    whole.report()
    assert "Below its start" in (tmp_path / "a" / "report.html").read_text()


def test_without_a_start(new_brain, fit, tmp_path):
    """A head that begins at random is not worth a test."""
    brain = fit(new_brain(tmp_path, **PLAIN, number_of_epochs=1))
    assert [*checkpoints(tmp_path)] == [1]
    assert brain.evaluate_kept()["start"] is None
