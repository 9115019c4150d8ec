"""Deep prompts for speech encoders, where PEFT's prompt methods fail."""

from dataclasses import dataclass

import torch

from ser_peft.errors import InputError

__all__ = ["DeepPrompt", "PromptConfig"]


@dataclass
class PromptConfig:
    """Learned frames in front of the input of every transformer layer.

    Each layer owns P vectors that it puts before its input, attends to, and
    drops from its output: L * P * H parameters. Unlike LoRA and bottleneck
    adapters, prompts change the encoder before any training, since frames
    attend to them from the first step. They start as each layer's input for
    silence, which the encoder knows: random ones take a linear probe of
    Whisper-tiny on RAVDESS from a valid UA of 0.85 to 0.70. Papers: Jia et
    al. 2022, "Visual prompt tuning" (deep); for emotion, Feng and Narayanan
    2023, "PEFT-SER".

    Arguments
    ---------
    length : int
        Number P of prompt frames of each layer.
    layers : list of int, optional
        Transformer layers that get them; all where absent.
    start : str
        "silence", or "random": Xavier-uniform, as PEFT-SER.

    Example
    -------
    >>> PromptConfig(length=3).method_name
    'prompt'
    """

    length: int = 5
    layers: list | None = None
    start: str = "silence"

    peft_type = "PROMPT"
    attribute = "deep_prompt"
    method_name = "prompt"

    def __post_init__(self):
        if self.length < 1:
            raise InputError(
                f"PromptConfig: length must be at least 1, not {self.length}"
            )
        if self.start not in ("silence", "random"):
            raise InputError(
                f"PromptConfig: start must be silence or random, not "
                f"{self.start}"
            )

    def attach(self, lobe, layers):
        """Give transformer layers their prompts.

        Arguments
        ---------
        lobe : SpeechLobe
            Lobe with hidden states of width H.
        layers : list of torch.nn.Module
            Some of `lobe.layers`.
        """
        device = next(layers[0].parameters()).device
        # A lobe without weights (device "meta") cannot encode silence.
        silent = {}
        if self.start == "silence" and device.type != "meta":
            silent = silence(lobe, layers, self.length)
        for layer in layers:
            prompt = DeepPrompt(lobe.hidden_size, self.length).to(device)
            if silent:
                prompt.prompt.data.copy_(silent[layer])
            layer.add_module(self.attribute, prompt)
            # Bound methods: a deep copy of the lobe gets hooks that run the
            # copied prompt.
            layer.register_forward_pre_hook(prompt.prepend, with_kwargs=True)
            layer.register_forward_hook(prompt.drop)


def silence(lobe, layers, frames):
    """Record the inputs of layers for silence after a noise.

    Arguments
    ---------
    lobe : SpeechLobe
        Lobe, not changed.
    layers : list of torch.nn.Module
        Some of `lobe.layers`.
    frames : int
        Number of frames; the first 0.2 s of the silence are skipped.

    Returns
    -------
    dict
        Layer -> [1, frames, C].
    """
    stride = lobe.frame_stride
    seconds = 1.3 + 0.02 * frames * stride
    wav = torch.zeros(1, int(lobe.sample_rate * seconds))
    noise = torch.randn(
        lobe.sample_rate, generator=torch.Generator().manual_seed(0)
    )
    wav[0, : lobe.sample_rate] = 0.1 * noise
    inputs = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, args: inputs.update({layer: args[0]})
        )
        for layer in layers
    ]
    training = lobe.training
    with torch.no_grad():
        lobe.eval()(wav.to(next(layers[0].parameters()).device))
    lobe.train(training)
    for hook in hooks:
        hook.remove()
    first = 60 // stride
    return {layer: x[:, first : first + frames] for layer, x in inputs.items()}


class DeepPrompt(torch.nn.Module):
    """The prompt frames of one layer, Xavier-uniform unless told otherwise.

    Arguments
    ---------
    width : int
        Width of the encoder's hidden states.
    length : int
        Number of prompt frames.
    """

    def __init__(self, width, length):
        super().__init__()
        self.length = length
        self.prompt = torch.nn.Parameter(torch.empty(1, length, width))
        torch.nn.init.xavier_uniform_(self.prompt)

    def prepend(self, layer, args, kwargs):
        """Hook in front of the layer: [B, T, H] becomes [B, P + T, H].

        Prompts are valid keys for every frame. WavLM's position bias is
        zero to and from them: they have no place in time.
        """
        hidden, *rest = args
        prompt = self.prompt.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
        hidden = torch.cat([prompt, hidden], dim=1)
        pad = torch.nn.functional.pad
        mask = kwargs.get("attention_mask")
        if mask is not None:
            mask = pad(mask, (self.length, 0), value=True)
            kwargs = {**kwargs, "attention_mask": mask}
        bias = kwargs.get("position_bias")
        if bias is not None:
            bias = pad(bias, (self.length, 0, self.length, 0))
            kwargs = {**kwargs, "position_bias": bias}
        return (hidden, *rest), kwargs

    def drop(self, layer, args, output):
        """Hook behind the layer: [B, P + T, H] becomes [B, T, H]."""
        if isinstance(output, tuple):  # WavLM's layers also give the bias
            return output[0][:, self.length :], *output[1:]
        return output[:, self.length :]
