"""Learning-rate factors."""

import pytest
import torch

from ser_peft.training.schedules import (
    SCHEDULES,
    constant,
    cosine,
    linear,
    plateau,
)


def test_names():
    assert SCHEDULES == {
        "constant": constant,
        "cosine": cosine,
        "linear": linear,
        "plateau": plateau,
    }


def test_constant_is_one():
    assert constant(0.7, [3.0, 4.0]) == 1.0


def test_linear_falls_to_zero():
    shares = [linear(done / 20, []) for done in range(21)]
    assert shares[:2] == [1.0, 1.0] and shares[-1] == 0.0
    falls = torch.tensor(shares[1:]).diff()
    assert torch.allclose(falls, falls[0].expand(19), atol=1e-6)


def test_cosine_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert cosine(step / 20, []) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=1e-9
        )
        optimizer.step()
        theirs.step()


def test_cosine_ends_at_zero_and_stays_there():
    assert cosine(0.0, []) == 1.0
    assert cosine(1.0, []) == pytest.approx(0.0)
    assert cosine(1.5, []) == pytest.approx(0.0)


@pytest.mark.parametrize("seed", range(5))
def test_plateau_is_torchs(seed):
    generator = torch.Generator().manual_seed(seed)
    fall = 0.03 * torch.arange(60)
    losses = (3 - fall + torch.rand(60, generator=generator)).tolist()
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, threshold=0, min_lr=0.1
    )
    seen = set()
    for epoch, loss in enumerate(losses, 1):
        theirs.step(loss)
        factor = plateau(0, losses[:epoch], patience=2)
        assert factor == optimizer.param_groups[0]["lr"]
        seen.add(factor)
    assert {1.0, 0.5} <= seen


def test_plateau_depends_on_past_losses_alone():
    losses = [1.0] + [2.0] * 6
    assert plateau(0.1, losses[:-1]) == 1.0
    assert plateau(0.1, losses) == plateau(0.9, losses) == 0.5
    # The count starts anew, and never goes below a tenth.
    assert plateau(0, losses + [2.0] * 5) == 0.5
    assert plateau(0, losses + [2.0] * 6) == 0.25
    assert plateau(0, [1.0] + [2.0] * 100) == 0.1
