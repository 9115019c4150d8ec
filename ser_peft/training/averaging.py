"""Exponential moving average of the weights that train."""

from safetensors.torch import load_file, save_file
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import main_process_only
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["WeightAverage"]


@register_checkpoint_hooks
class WeightAverage:
    """Average of weights over the steps of a training, judged in their place.

    The modules hold the average, whoever looks at them: it is what is
    evaluated, kept and saved. A training epoch takes the weights that the
    optimisers move, and gives them back.

    Paper: Polyak and Juditsky 1992, "Acceleration of stochastic approximation
    by averaging"; the exponential form as in torch's ``swa_utils``.

    Arguments
    ---------
    parameters : list of torch.nn.Parameter
        Parameters, which hold the weights that training starts from.
    decay : float
        Share of the average that a step keeps: 0.98 averages over about the
        last 50 steps.

    Example
    -------
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> average = WeightAverage([weight], decay=0.5)
    >>> average.exchange()  # training
    >>> with torch.no_grad():
    ...     weight.fill_(1.0)
    Parameter containing:
    tensor([1.], requires_grad=True)
    >>> average.update()
    >>> average.exchange()  # evaluation
    >>> weight.item()
    0.5
    """

    def __init__(self, parameters, decay):
        self.parameters = parameters
        self.other = [parameter.detach().clone() for parameter in parameters]
        """The weights that the modules do not hold now."""
        self._average = get_ema_multi_avg_fn(decay)

    def exchange(self):
        """Exchange the average for the weights that train, or back."""
        for parameter, other in zip(self.parameters, self.other, strict=True):
            parameter.data, other.data = other.data, parameter.data

    def update(self):
        """Take a step into account, while the modules hold its weights."""
        now = [parameter.detach() for parameter in self.parameters]
        self._average(self.other, now, None)

    @mark_as_saver
    @main_process_only
    def save(self, path):
        """Write the weights that train on, as safetensors."""
        others = {str(i): one.contiguous() for i, one in enumerate(self.other)}
        save_file(others, path)

    @mark_as_loader
    def load(self, path, end_of_epoch=True):
        """Load the weights that train on from `save`'s file."""
        others = load_file(path)
        for i, one in enumerate(self.other):
            one.copy_(others[str(i)])
