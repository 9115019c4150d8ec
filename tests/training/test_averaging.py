"""The average of the weights: judged, kept, gone on from."""

import json

import pytest
import torch
from safetensors.torch import load_file
from scripts import run_script

from ser_peft.inference import load_model
from ser_peft.training.averaging import WeightAverage

SETTINGS = {
    "augment": False,
    "start_from_probe": False,
    "adapter_lr": 0.005,
    "head_lr": 0.01,
    "method": "frozen",
}


def test_follows_the_formula():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    average, expected = WeightAverage([weight], 0.9), 1.0
    average.exchange()
    for step in range(1, 6):
        weight.data.fill_(step)
        average.update()
        expected = 0.9 * expected + 0.1 * step
    average.exchange()
    assert weight.item() == pytest.approx(expected)
    average.exchange()
    assert weight.item() == 5


@pytest.fixture(scope="module")
def runs(arguments, tmp_path_factory):
    """Runs with no average, with one of all steps alike, and with one."""
    folder = tmp_path_factory.mktemp("averages")
    found = {}
    for decay in (0, 1e-9, 0.8):
        found[decay] = folder / str(decay)
        run_script(arguments(found[decay], **SETTINGS, ema_decay=decay))
    return found


def head(folder, name="model/head.safetensors"):
    return load_file(folder / name)


def test_training_goes_on_from_the_weights_not_from_their_average(runs):
    """An average of the last step alone changes nothing."""
    plain, last = head(runs[0]), head(runs[1e-9])
    assert all(torch.allclose(plain[k], last[k], atol=1e-6) for k in plain)
    average = head(runs[0.8])
    assert not torch.allclose(average["out.0.weight"], plain["out.0.weight"])
    losses = []
    for decay in (0, 0.8):
        path = runs[decay] / "save/CKPT+epoch0002/history.ckpt"
        losses.append([e["train_loss"] for e in json.loads(path.read_text())])
    assert losses[0] == losses[1]  # which the average has no part in


def test_what_is_validated_is_what_is_saved(runs, tmp_path):
    results = json.loads((runs[0.8] / "results.json").read_text())
    model = load_model(runs[0.8])
    rows = (runs[0.8] / "predictions.csv").read_text().splitlines()[1:]
    assert results["test_utterances"] == len(rows)
    kept = head(runs[0.8], "save/CKPT+epoch0002/head.ckpt")
    saved = model.head.state_dict()
    assert all(torch.equal(kept[k], saved[k]) for k in saved)


def test_a_killed_run_goes_on_with_both(arguments, runs, tmp_path):
    argv = arguments(tmp_path / "run", **SETTINGS, ema_decay=0.8)
    from ser_peft.training.tested import TestedBrain

    epochs = []
    finish = TestedBrain.finish_epoch

    def stop(self, epoch, *args):
        finish(self, epoch, *args)
        epochs.append(epoch)
        if len(epochs) == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TestedBrain, "finish_epoch", stop)
        with pytest.raises(SystemExit):
            run_script(argv)
        run_script(argv)
    assert epochs == [1, 2]
    whole, resumed = head(runs[0.8]), head(tmp_path / "run")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
