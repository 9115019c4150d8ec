"""A trained run or a released model: from recordings to emotions."""

from ser_peft.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "loading": "load_model read_model",
        "model": "EmotionModel identities",
        "recognizer": "Recognizer check_scores",
        "windows": "by_window",
    },
)
