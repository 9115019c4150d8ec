"""TAPT's objective: wav2vec 2.0's own pretraining, on the task's speech."""

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from torch.nn.functional import (
    cross_entropy,
    gumbel_softmax,
    normalize,
    one_hot,
)
from transformers import Wav2Vec2ForPreTraining

from ser_peft.errors import InputError
from ser_peft.lobes.transformer import quiet
from ser_peft.storage.checkpoints import SafeModule

__all__ = ["ContrastiveObjective", "sample_negatives"]

PARTS = ("quantizer", "project_q", "project_hid")


def sample_negatives(time_mask, count):
    """Draw, for each masked frame, other masked frames of the same clip.

    Uniformly and with replacement, from torch's global generator.

    Arguments
    ---------
    time_mask : torch.Tensor
        Masked frames, [B, T'] (bool); none or at least two in each clip.
    count : int
        Number K of negatives of each masked frame.

    Returns
    -------
    torch.Tensor
        [N, K], for the N masked frames in the order of
        ``time_mask.nonzero()``; indices into the same order.

    Example
    -------
    >>> sample_negatives(torch.tensor([[True, False, True]]), 3)
    tensor([[1, 1, 1],
            [0, 0, 0]])
    """
    masked = time_mask.sum(1)
    size = masked.repeat_interleave(masked)[:, None]
    first = (masked.cumsum(0) - masked).repeat_interleave(masked)[:, None]
    own = torch.arange(len(size), device=time_mask.device)[:, None] - first
    drawn = torch.randint(
        1 << 31, (len(size), count), device=time_mask.device
    ) % (size - 1)
    return first + drawn + (drawn >= own)


class ContrastiveObjective(SafeModule):
    """Tell a masked frame's quantised features from those of other frames.

    The quantiser and both projections are those of the encoder's checkpoint.
    Paper: Baevski et al. 2020, "wav2vec 2.0", section 3.2; continued on the
    task's speech (TAPT) by Chen and Rudnicky 2023, "Exploring wav2vec 2.0
    fine-tuning for improved speech emotion recognition".

    Arguments
    ---------
    encoder : PeftLobe
        A wav2vec 2.0 that was only pretrained. It gets a hook that hands the
        features to this objective.
    save_path : str
        Folder for downloads, the same as the lobe's.
    negatives : int
        Number of distractors of each masked frame.
    temperature : float
        Temperature of the similarities (kappa).
    diversity_weight : float
        Weight of the diversity loss (alpha).
    gumbel : tuple of float
        Temperature of the quantiser's Gumbel softmax: first, last, and its
        factor from step to step.
    train : bool
        False freezes quantiser and projections; the targets are the most
        likely codes then, and nothing is drawn.

    Raises
    ------
    InputError
        If the checkpoint is no wav2vec 2.0 or holds no quantiser.

    Example
    -------
    >>> objective = ContrastiveObjective(encoder)  # doctest: +SKIP
    >>> states, frames = encoder(wav, wav_lens, mask)  # doctest: +SKIP
    >>> found = objective(states[-1], mask, step=0)  # doctest: +SKIP
    >>> found["loss"].backward()  # doctest: +SKIP
    """

    def __init__(
        self,
        encoder,
        save_path="",
        negatives=100,
        temperature=0.1,
        diversity_weight=0.1,
        gumbel=(2.0, 0.5, 0.999995),
        train=True,
    ):
        super().__init__()
        self.negatives = negatives
        self.temperature = temperature
        self.diversity_weight = diversity_weight
        self.gumbel = gumbel
        self.trainable = train
        model = _pretrained(encoder.lobe, save_path)
        self.dropout = model.dropout_features
        for part in PARTS:
            self.add_module(part, getattr(model, part).requires_grad_(train))
        self.features = None
        # A hook, since lobes return hidden states only, and the features that
        # are quantised are those before masking.
        projection = encoder.lobe.backbone.feature_projection
        projection.register_forward_hook(self._keep_features)
        self.train()

    def _keep_features(self, module, inputs, outputs):
        self.features = outputs[1]

    def train(self, mode=True):
        """Set train or eval mode; always eval where nothing trains."""
        return super().train(mode and self.trainable)

    def quantize(self, features):
        """Replace features by codevectors.

        It equals Hugging Face's module in a small part of the memory: that
        one makes a tensor of frames x codevectors x width.

        Arguments
        ---------
        features : torch.Tensor
            Features of N masked frames, [N, C].

        Returns
        -------
        vectors : torch.Tensor
            The groups' codevectors, joined, [N, D].
        choice : torch.Tensor
            One-hot choice of them, [N, groups, codevectors]. In training it
            is drawn, with the gradient of a softmax.
        perplexity : torch.Tensor
            Perplexity of the codevectors' use, summed over the groups, []; in
            training that of the probabilities, else of the choice.
        """
        module = self.quantizer
        shape = (module.num_groups, module.num_vars)
        logits = module.weight_proj(features).unflatten(1, shape)
        if module.training:
            choice = gumbel_softmax(logits, tau=module.temperature, hard=True)
            share = logits.softmax(-1)
        else:
            choice = one_hot(logits.argmax(-1), module.num_vars).to(logits)
            share = choice
        share = share.sum(0) / max(len(features), 1)
        # A share that underflows to zero has NaN for its gradient.
        share = share.clamp(min=1e-37)
        perplexity = torch.special.entr(share).sum(-1).exp().sum()
        codevectors = module.codevectors.view(*shape, -1)
        vectors = torch.einsum("ngv,gvd->ngd", choice, codevectors).flatten(1)
        return vectors, choice, perplexity

    def forward(self, hidden, time_mask, step):
        """Compute the losses of the batch that was just encoded.

        All is computed in float32, also under autocast. A clip with a single
        masked frame does not count, since it has no negatives.

        Arguments
        ---------
        hidden : torch.Tensor
            Last hidden state of the masked clips, [B, T', C].
        time_mask : torch.Tensor
            Frames that were masked, bool, [B, T']; valid ones only.
        step : int
            Number of optimiser steps so far, for the Gumbel temperature.

        Returns
        -------
        dict
            ``loss`` (contrastive + weighted diversity loss), ``contrastive``
            (cross-entropy in nats) and ``diversity`` (0 to 1), all three per
            masked frame; ``masked``, the number of frames that count;
            ``correct``, the number of them that were told from all negatives,
            and ``chance``, the number expected by guessing (negatives with
            the frame's own code do not count, so that it grows as the
            codebook collapses); ``perplexity`` of the codebook, summed over
            groups; ``counts`` of the codes, [groups, codevectors]. Only
            ``loss`` carries a gradient.
        """
        # Let go, so that the graph dies with the loss.
        features, self.features = self.features, None
        start, end, decay = self.gumbel
        self.quantizer.temperature = max(end, start * decay**step)
        time_mask = time_mask & (time_mask.sum(1, keepdim=True) > 1)
        with torch.autocast(hidden.device.type, enabled=False):
            features = self.dropout(features[time_mask].float())
            vectors, choice, perplexity = self.quantize(features)
            predicted = self.project_hid(hidden[time_mask].float())
            similarity = (
                normalize(predicted, dim=1)
                @ normalize(self.project_q(vectors), dim=1).T
            )
            masked = len(similarity)
            own = torch.arange(masked, device=hidden.device)[:, None]
            negatives = sample_negatives(time_mask, self.negatives)
            candidates = torch.cat([own, negatives], dim=1)
            logits = similarity.gather(1, candidates) / self.temperature
            # By their codes: drawn vectors differ by rounding.
            codes = choice.argmax(-1)
            same = (codes[candidates] == codes[:, None]).all(-1)
            same[:, 0] = False
            logits = logits.masked_fill(same, float("-inf"))
            contrastive = cross_entropy(
                logits, torch.zeros_like(own[:, 0]), reduction="sum"
            ) / max(masked, 1)
            total = self.quantizer.num_groups * self.quantizer.num_vars
            diversity = (total - perplexity) / total * bool(masked)
            loss = contrastive + self.diversity_weight * diversity
        return {
            "loss": loss,
            "contrastive": contrastive.detach(),
            "diversity": diversity.detach(),
            "masked": masked,
            "correct": (logits.detach().argmax(1) == 0).sum(),
            "chance": (~same).sum(1).reciprocal().sum(),
            "perplexity": perplexity.detach(),
            "counts": choice.detach().sum(0).round().long(),
        }


def _pretrained(lobe, save_path):
    """Load the whole model of the lobe's checkpoint, with its quantiser."""
    kind = lobe.config.model_type
    if kind != "wav2vec2":
        raise InputError(
            f"backbone {lobe.source}: {kind} was pretrained without the "
            "quantiser that TAPT goes on with; take facebook/wav2vec2-base, "
            "or P-TAPT, which suits every backbone"
        )
    with quiet():
        model, report = Wav2Vec2ForPreTraining.from_pretrained(
            lobe.source,
            cache_dir=str(save_path or HF_HUB_CACHE),
            revision=lobe.commit,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    missing = [k for k in sorted(report["missing_keys"]) if k.startswith(PARTS)]
    if missing:
        raise InputError(
            f"backbone {lobe.source}: holds no quantiser ({missing[0]}, ...) "
            "for TAPT to go on with, as fine-tuned checkpoints do not; take "
            "one that was only pretrained, such as facebook/wav2vec2-base"
        )
    return model
