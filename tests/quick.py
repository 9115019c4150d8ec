"""Leave out what takes longer than a tiny training, and says nothing of it."""

import speechbrain.utils.logger
import tqdm

from ser_peft.report import drawing


def be_quick():
    """No ``pip freeze`` in every training; figures drawn, but not laid out.

    And no thread behind progress bars: tests fork, and a lock that another
    thread holds in that moment is held forever in the child.
    """
    speechbrain.utils.logger.get_environment_description = lambda: "not asked"
    drawing.STYLE["figure.constrained_layout.use"] = False
    tqdm.tqdm.monitor_interval = 0
