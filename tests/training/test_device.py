"""What runs on a GPU, where there is none: see `pretend`."""

import pytest
import speechbrain as sb
import torch
from pretend import DEVICE, pretend


def test_the_device_refuses_operands_of_the_cpu():
    with pretend() as waits:
        here, there = torch.ones(2), torch.ones(2).to(DEVICE, non_blocking=True)
        assert not waits
        assert (there + there).sum().item() == 4
        assert waits == {"item": 1}
        with pytest.raises(RuntimeError, match="operands on two devices"):
            here + there


@pytest.mark.parametrize("backbone", ["whisper", "wav2vec2"])
def test_a_step_and_an_evaluation(
    new_brain, tiny_backbones, tmp_path, backbone
):
    """The same losses as on the CPU, and few waits.

    SpeechBrain looks at the loss twice, the lobe at lengths.
    """
    losses = []
    for device in ("cpu", DEVICE):
        with pretend() as waits:
            torch.manual_seed(0)
            brain = new_brain(
                tmp_path, device=device, backbone=tiny_backbones[backbone],
                augment=False, crop=1,
            )  # fmt: skip
            brain.init_optimizers()
            loader = brain.train_loader()
            brain.on_stage_start(sb.Stage.TRAIN, 1)
            brain.modules.eval()  # nothing random
            batch = next(iter(loader))
            for brain.step in (1, 2):
                waits.clear()
                loss = brain.fit_batch(batch)
            assert sum(waits.values()) <= 7, waits
            brain.on_stage_start(sb.Stage.VALID, 1)
            brain.evaluate_batch(batch, sb.Stage.VALID)
            losses.append((float(loss), brain.outcome()["loss"]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
