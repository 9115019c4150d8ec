"""Parameter-efficient speech emotion recognition for SpeechBrain."""

__all__ = ["load_model"]


def __getattr__(name):
    # `import ser_peft` stays quick: torch is loaded when a model is.
    if name == "load_model":
        from ser_peft.inference import load_model

        return load_model
    raise AttributeError(f"module 'ser_peft' has no attribute '{name}'")
