"""Parameter-efficient speech emotion recognition for SpeechBrain."""

import os

from ser_peft.lazy import lazy

# From 1.32 on, onnxruntime tells its maker of its use, unless this is set
# before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__getattr__, __all__ = lazy(__name__, {"inference": "load_model"})
