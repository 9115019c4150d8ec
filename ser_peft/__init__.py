"""Parameter-efficient speech emotion recognition for SpeechBrain."""

from ser_peft.lazy import lazy

__getattr__, __all__ = lazy(__name__, {"inference": "load_model"})
