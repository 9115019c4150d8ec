"""Optimizers go on where they were, bit by bit."""

import pytest
import torch
from safetensors.torch import load_file

from ser_peft.storage.checkpoints import SafeCheckpointer
from ser_peft.storage.optimizers import load_optimizer, save_optimizer


def a_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 1))


def step(model, optimizer, number):
    generator = torch.Generator().manual_seed(number)
    loss = model(torch.randn(4, 5, generator=generator)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Slowing(torch.optim.Optimizer):
    """Gradient descent that counts its steps in a plain number."""

    def __init__(self, params):
        super().__init__(params, {"lr": 1e-2})

    @torch.no_grad()
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["steps"] = state.get("steps", 0) + 1
            scale = self.param_groups[0]["lr"] / state["steps"]
            parameter.sub_(scale * parameter.grad)


OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "plain SGD": lambda p: torch.optim.SGD(p, lr=1e-2),
    "a number": Slowing,
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("done", [0, 3])
def test_an_optimiser_goes_on_bit_by_bit(tmp_path, name, done):
    model = a_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    for number in range(done):
        step(model, optimizer, number)
        optimizer.param_groups[0]["lr"] *= 0.7  # a schedule
    save_optimizer(optimizer, tmp_path / "opt")

    other = a_model()
    other.load_state_dict(model.state_dict())
    resumed = OPTIMIZERS[name](other.parameters())
    load_optimizer(resumed, tmp_path / "opt", end_of_epoch=True)
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for number in range(done, done + 3):
        step(model, optimizer, number)
        step(other, resumed, number)
        for one, two in zip(
            model.parameters(), other.parameters(), strict=True
        ):
            assert torch.equal(one, two)


def test_an_optimisers_file_is_safetensors(tmp_path):
    model = a_model()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    step(model, optimizer, 0)
    save_optimizer(optimizer, tmp_path / "opt")
    tensors = load_file(tmp_path / "opt")
    state = optimizer.state_dict()["state"]
    assert len(tensors) == 4 * 3
    assert torch.equal(tensors["2.exp_avg"], state[2]["exp_avg"])
    content = (tmp_path / "opt").read_bytes()
    assert not content.startswith((b"PK", b"\x80"))


def test_an_optimiser_in_a_checkpoint(tmp_path):
    model = a_model()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    step(model, optimizer, 0)
    saver = SafeCheckpointer(tmp_path)
    saver.add_recoverable("opt", optimizer, load_optimizer, save_optimizer)
    saver.save_checkpoint()
    fresh = OPTIMIZERS["AdamW"](a_model().parameters())
    loader = SafeCheckpointer(tmp_path)
    loader.add_recoverable("opt", fresh, load_optimizer, save_optimizer)
    loader.recover_if_possible()
    state, expected = fresh.state_dict()["state"], optimizer.state_dict()
    for index, values in expected["state"].items():
        for key, value in values.items():
            assert torch.equal(state[index][key], value)
