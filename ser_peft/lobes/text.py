"""Encoders of transcripts."""

import torch
from transformers import AutoTokenizer

from ser_peft.errors import InputError
from ser_peft.lobes.transformer import TransformerLobe

__all__ = ["FAMILIES", "TextLobe"]

_BERT = {
    "layers_path": "encoder.layer",
    "attention": (
        *(f"attention.self.{part}" for part in ("query", "key", "value")),
        "attention.output.dense",
    ),
    "ffn": ("intermediate.dense", "output.dense"),
}
FAMILIES = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), _BERT),
    "distilbert": {
        "layers_path": "transformer.layer",
        "attention": tuple(f"attention.{part}_lin" for part in "qkv")
        + ("attention.out_lin",),
        "ffn": ("ffn.lin1", "ffn.lin2"),
    },
}
"""Model type -> names of the modules that adapters go into."""


class TextLobe(TransformerLobe):
    """BERT or a relative: transcripts to the hidden states of their tokens.

    See `TransformerLobe` for the arguments. Paper: Devlin et al. 2019,
    "BERT".
    """

    not_needed = ("pooler.",)
    adapter_name = "text_adapter"
    extractor = None
    """Tokenizer."""
    no_text = "NULL"
    """Replacement for a missing text, as in 3M-SER."""

    def __init__(self, source, save_path="", weights=True, **kwargs):
        super().__init__(source, save_path, weights=weights, **kwargs)
        if weights is not True:
            return  # shapes need no tokenizer
        try:
            self.extractor = AutoTokenizer.from_pretrained(
                source,
                cache_dir=str(save_path) or None,
                revision=self.commit,
                trust_remote_code=False,
            )
            # transformers makes one up where there is no file.
            special = self.extractor.all_special_tokens
            if set(self.extractor.get_vocab()) <= {*special}:
                raise ValueError("its vocabulary is empty")
        except Exception as error:  # its library's errors have no class
            reason = (str(error).splitlines() or [repr(error)])[0]
            raise InputError(
                f"backbone {source}: no tokenizer ({reason}); give a folder "
                "that has tokenizer.json too"
            ) from error

    def override_config(self, config):
        """Set the family's names of modules; SpeechBrain's hook."""
        for name, value in FAMILIES[config.model_type].items():
            setattr(self, name, value)
        return config

    def dummy(self, device):
        """Two texts of different lengths, as arguments of `forward`."""
        return (["I told you so.", "No"],)

    def forward(self, texts):
        """Encode transcripts.

        Arguments
        ---------
        texts : list of str
            One text for each clip. Those beyond the encoder's length are cut;
            an empty one counts as missing.

        Returns
        -------
        hidden_states : torch.Tensor
            [L + 1, B, S, C]; index 0 is the input of the first layer.
        tokens : torch.Tensor
            Valid tokens of each text, [B].
        """
        tokens = self.extractor(
            [text or self.no_text for text in texts],
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self.backbone.device)
        states = self.backbone(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            output_hidden_states=True,
        ).hidden_states
        return torch.stack(states), tokens["attention_mask"].sum(1)

    def below(self, texts, wav_lens=None, layers=None):
        """Encode transcripts through all layers: only frozen ones are kept.

        Arguments and return values are those of `forward`.
        """
        return self(texts)

    def above(self, states, tokens):
        """Return the output of `below`, which is that of all layers."""
        return states, tokens

    @property
    def max_tokens(self):
        """Longest input, special tokens included."""
        positions = self.config.max_position_embeddings
        # RoBERTa's positions count from behind the padding's.
        return positions - 2 * ("roberta" in self.config.model_type)
