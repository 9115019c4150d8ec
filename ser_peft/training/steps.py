"""Training steps: two optimisers, their learning rates, one clipped norm."""

import speechbrain as sb
import torch

from ser_peft.errors import InputError
from ser_peft.storage.optimizers import (
    load_optimizer,
    save_optimizer,
)
from ser_peft.training.averaging import WeightAverage
from ser_peft.training.schedules import SCHEDULES

__all__ = ["SteppingBrain"]


class SteppingBrain(sb.Brain):
    """Steps an optimiser of the adapters and one of the head.

    Its subclass `PeftBrain` sets what the steps need.
    """

    average = None
    """With ``ema_decay``: the `WeightAverage`."""

    def init_optimizers(self):
        """One optimiser for the adapters, one for the head."""
        self.optimizers_dict = {}
        for name, modules in (
            ("adapter_opt", [*self.encoders.values()]),
            ("head_opt", self.head_modules()),
        ):
            params = [
                parameter
                for module in modules
                for parameter in module.parameters()
                if parameter.requires_grad
            ]
            if params:
                optimizer = self.opt_class[name](params)
                self.optimizers_dict[name] = optimizer
                self.checkpointer.add_recoverable(
                    name, optimizer, load_optimizer, save_optimizer
                )
        if self.hparams.ema_decay:
            self.average = WeightAverage(
                [
                    parameter
                    for optimizer in self.optimizers_dict.values()
                    for group in optimizer.param_groups
                    for parameter in group["params"]
                ],
                self.hparams.ema_decay,
            )
            self.checkpointer.add_recoverable("average", self.average)
        self.full_lr = {
            name: optimizer.param_groups[0]["lr"]
            for name, optimizer in self.optimizers_dict.items()
        }

    def head_modules(self):
        """Modules that `head_opt` trains."""
        return [self.head]

    @property
    def encoders_frozen(self):
        """Whether the encoders are frozen in this epoch."""
        return self.epoch <= self.frozen_epochs

    def fitting(self, wavs, lens):
        """A training batch, cut to what the encoder takes at all.

        Augmentation slows clips down, and so makes them longer.
        """
        lobe = self.encoder.lobe
        return lobe.beginning(wavs, lens) if lobe.limited else (wavs, lens)

    def on_fit_batch_start(self, batch, should_step):
        """Set the learning rates of this step."""
        step = (self.step - 1) // self.grad_accumulation_factor
        done = self.epoch - 1 + step / self.steps
        if not self.encoders_frozen:
            done -= self.frozen_epochs
        epochs = self.hparams.epoch_counter.limit - self.frozen_epochs
        warm = max(self.hparams.warmup_epochs, 1e-9)
        factor = min(1.0, (done + 1 / self.steps) / warm)
        if not self.encoders_frozen:
            factor *= SCHEDULES[self.hparams.schedule](
                done / epochs,
                [
                    past["valid_loss"]
                    for past in self.history[self.frozen_epochs :]
                ],
            )
        for name, optimizer in self.optimizers_dict.items():
            optimizer.param_groups[0]["lr"] = self.full_lr[name] * factor

    def train_objective(self, total, count):
        """Compute the loss of a training batch; keep it for the epoch's mean.

        DDP averages the processes' gradients, whose batches may differ in
        size: they are weighed so that the mean is that over all.

        Arguments
        ---------
        total : torch.Tensor
            Sum over this process's clips (or frames), scalar.
        count : int
            Of them.

        Returns
        -------
        torch.Tensor
            What to call ``backward`` on, the adapter's own loss added.
        """
        self.losses.append(total.detach())
        self.loss_count += count
        count = torch.full((), float(count), device=total.device)
        if self.world > 1:
            torch.distributed.all_reduce(count)
        loss = total * self.world / count.clamp(min=1)
        if self.encoders_frozen:
            return loss
        return loss + sum(
            encoder.regularization() for encoder in self.encoders.values()
        )

    def train_loss(self):
        """Mean loss of the epoch so far, over all processes."""
        total = torch.stack(self.losses).cpu().double().sum().item()
        sums = self.gather([(total, self.loss_count)])
        total, count = (sum(part) for part in zip(*sums, strict=True))
        return total / count

    def check_loss_isfinite(self, loss):
        """Stop in one line where SpeechBrain would with a traceback."""
        try:
            super().check_loss_isfinite(loss)
        except ValueError as error:
            raise InputError(
                f"epoch {self.epoch}: the training loss is {loss.item()}; "
                "lower adapter_lr or head_lr"
            ) from error

    def optimizers_step(self):
        """Step both optimisers after clipping one norm over all gradients."""
        optimizers = [
            optimizer
            for name, optimizer in self.optimizers_dict.items()
            # A gradient scaler takes none without gradients.
            if not (self.encoders_frozen and name == "adapter_opt")
        ]
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
        if self.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(
                [
                    p
                    for optimizer in optimizers
                    for p in optimizer.param_groups[0]["params"]
                ],
                self.max_grad_norm,
            )
        if self.skip_nonfinite_grads and not self.scaler.is_enabled():
            self.check_gradients()
        scale = self.scaler.get_scale()
        for optimizer in optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        # It falls where a gradient overflowed: no step was taken.
        if self.scaler.get_scale() >= scale:
            self.optimizer_step += 1
            self.on_step()
        self.zero_grad(set_to_none=True)

    def on_step(self):
        """Let methods look at the gradients of a step that was taken."""
        if self.average:
            self.average.update()
        if not self.encoders_frozen:
            step = self.optimizer_step - self.frozen_epochs * self.steps
            for encoder in self.encoders.values():
                encoder.on_step(step)

    def train_weights(self):
        """Give the modules the weights that train on, not their average."""
        if self.average:
            self.average.exchange()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Give the modules the average of the weights, if there is one."""
        if stage == sb.Stage.TRAIN and self.average:
            self.average.exchange()

    def learning_rates(self):
        """Name -> rate now."""
        return {
            f"lr_{name.removesuffix('_opt')}": optimizer.param_groups[0]["lr"]
            for name, optimizer in self.optimizers_dict.items()
        }
