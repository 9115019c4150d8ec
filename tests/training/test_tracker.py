"""A second logger, of SpeechBrain: curves of TensorBoard and the like."""

import json

import pytest
from scripts import run_script
from speechbrain.utils.train_logger import TrainLogger

from ser_peft.training.history import track

TENSORBOARD = (
    "!new:speechbrain.utils.train_logger.TensorboardLogger "
    "{save_dir: !ref <output_folder>/tensorboard}"
)


def curves(folder):
    """Tag -> {step: value} of TensorBoard's files in a folder."""
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    found = events.EventAccumulator(str(folder))
    found.Reload()
    return {
        tag: {event.step: event.value for event in found.Scalars(tag)}
        for tag in found.Tags()["scalars"]
    }


def test_curves_are_those_of_the_log(arguments, tmp_path):
    pytest.importorskip("tensorboard")
    given = {"tracker": TENSORBOARD, "start_from_probe": "True"}
    run_script(arguments(tmp_path / "run", number_of_epochs=2, **given))
    found = curves(tmp_path / "run" / "tensorboard")
    assert {*found["UA/valid"]} == {0, 1, 2}  # from its start on
    assert {*found["loss/train"]} == {*found["lr_head"]} == {1, 2}
    (checkpoint,) = (tmp_path / "run" / "save").glob("*epoch*2*/history.ckpt")
    for past in json.loads(checkpoint.read_text()):
        for tag, key in {
            "loss/train": "train_loss",
            "UA/valid": "valid_ua",
            "lr_head": "lr_head",
        }.items():
            assert found[tag][past["epoch"]] == pytest.approx(past[key])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["ua/test"] == {2: pytest.approx(results["ua"])}
    # The log says all of it too, and has the texts.
    log = (tmp_path / "run" / "train_log.txt").read_text()
    assert "epoch: 2" in log and "kept: " in log and "precision: " in log


class Fake(TrainLogger):
    """Such as `WandBLogger`, which has neither steps nor a writer."""

    def log_stats(self, stats_meta, **stats):
        self.logged = stats_meta, stats


def test_numbers_alone_are_tracked():
    fake = Fake()
    valid = {"valid_stats": {"UA": 0.5}}
    track(fake, 0, {"start": "linear probe", "epoch": 0}, valid)
    assert fake.logged == ({"epoch": 0}, valid)
    track(fake, 3, {"kept": "best valid UA"}, {"test_stats": {"ua": 0.6}})
    assert fake.logged == ({"epoch": 3}, {"test_stats": {"ua": 0.6}})


def test_a_resumed_run_goes_on_with_its_steps(tmp_path):
    """Its logger is a new one, which would count from 0."""
    pytest.importorskip("tensorboard")
    from speechbrain.utils.train_logger import TensorboardLogger

    for epochs in ((1, 2), (3,)):
        logger = TensorboardLogger(tmp_path)
        for epoch in epochs:
            loss = {"train_stats": {"loss": 1 / epoch}}
            track(logger, epoch, {"epoch": epoch}, loss)
        logger.writer.close()
    assert curves(tmp_path)["loss/train"] == {
        epoch: pytest.approx(1 / epoch) for epoch in (1, 2, 3)
    }


def test_a_tracker_is_a_logger(arguments, tmp_path, capsys):
    argv = arguments(tmp_path / "run", tracker="!new:builtins.dict {}")
    with pytest.raises(SystemExit) as stop:
        run_script(argv)
    assert stop.value.code == 2
    assert "'tracker' is missing or no such thing" in capsys.readouterr().err
