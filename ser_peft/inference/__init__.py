"""A trained run or a released model: from recordings to emotions."""

from ser_peft.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "classifier": "EmotionClassifier",
        "ensembles": "EnsembleModel models_in",
        "loading": "load_model read_model",
        "model": "EmotionModel identities",
        "onnx": "OnnxModel load_onnx",
        "pipelines": "EmotionPipeline pipeline",
        "recognizer": "Recognizer check_scores",
        "streams": "Stream Window",
        "timeline": "Segment Timeline",
        "windows": "by_window",
    },
)
