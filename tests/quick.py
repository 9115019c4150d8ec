"""Leave out what takes longer than a tiny training, and says nothing of it."""

import speechbrain.utils.logger

from ser_peft.report import drawing


def be_quick():
    """No ``pip freeze`` in every training; figures drawn, but not laid out."""
    speechbrain.utils.logger.get_environment_description = lambda: "not asked"
    drawing.STYLE["figure.constrained_layout.use"] = False
