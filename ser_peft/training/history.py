"""History of a training's epochs, and the order of its checkpoints."""

import json
from pathlib import Path

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import main_process_only

__all__ = ["History", "rank", "track"]


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


@main_process_only
def track(tracker, epoch, meta, stats):
    """Log an epoch to a tracker of experiments, at its own step.

    Arguments
    ---------
    tracker : speechbrain.utils.train_logger.TrainLogger
        Such as `TensorboardLogger` or `WandBLogger`.
    epoch : int
        Step of the curves.
    meta, stats : dict
        See `PeftBrain.log`. Texts are left out: TensorBoard takes numbers.
    """
    if hasattr(tracker, "global_step"):
        # TensorBoard's logger counts its calls, from 0 in a resumed run too.
        tracker.global_step = {
            name: dict.fromkeys(stats.get(f"{name}_stats", ()), epoch - 1)
            for name in ("train", "valid", "test")
        } | {"meta": epoch - 1}
    numbers = {k: v for k, v in meta.items() if not isinstance(v, str)}
    tracker.log_stats({**numbers, "epoch": epoch}, **stats)
    if hasattr(tracker, "writer"):
        tracker.writer.flush()  # nobody closes it
