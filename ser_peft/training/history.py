"""History of a training's epochs, and the order of its checkpoints."""

import json
from pathlib import Path

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

__all__ = ["History", "rank"]


@register_checkpoint_hooks
class History(list):
    """Measures of every finished epoch; saved with each checkpoint."""

    @mark_as_saver
    def save(self, path):
        """Write as JSON."""
        Path(path).write_text(json.dumps(self), encoding="utf-8")

    @mark_as_loader
    def load(self, path, end_of_epoch=True):
        """Read what `save` wrote."""
        self[:] = json.loads(Path(path).read_text(encoding="utf-8"))


def rank(score, loss):
    """Order of checkpoints: among equal scores the lower loss is better."""
    return score - 1e-6 * min(loss, 1e3)
