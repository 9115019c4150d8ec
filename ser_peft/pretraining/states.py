"""Phase 1 of P-TAPT: heads that teach an encoder frame-level emotion states."""

from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ser_peft.heads import Head, masked_mean

__all__ = ["StateHead", "frame_loss"]


class StateHead(Head):
    """Head for the emotion of the utterance and of each of its frames.

    Two heads on the encoder's last hidden state: a bidirectional LSTM, mean
    over the valid frames and two dense layers for the utterance; two dense
    layers for each frame by itself, which is what makes single frames carry
    emotion. Both are dropped when the frames are clustered. Paper: Chen
    and Rudnicky 2023, "Exploring wav2vec 2.0 fine-tuning for improved speech
    emotion recognition", arXiv 2110.06309 (P-TAPT).

    Arguments
    ---------
    encoder, classes, dimensions
        See `Head`. For the states of layer k give a lobe that ends there.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> import torch
    >>> encoder = SimpleNamespace(num_layers=2, hidden_size=32)
    >>> head = StateHead(encoder, 4)
    >>> states, frames = torch.rand(3, 2, 9, 32), torch.tensor([9, 5])
    >>> head(states, frames).shape
    torch.Size([2, 4])
    >>> head(states, frames, each_frame=True)[1].shape
    torch.Size([2, 9, 4])
    """

    score_layers = ("utterance.2.", "frame.2.")

    def __init__(self, encoder, classes, dimensions=()):
        super().__init__(encoder, classes, dimensions)
        self.lstm = nn.LSTM(
            self.width, 256, batch_first=True, bidirectional=True
        )
        self.utterance, self.frame = (
            nn.Sequential(
                nn.Linear(width, 128), nn.Tanh(), nn.Linear(128, self.outputs)
            )
            for width in (512, self.width)
        )

    def forward(self, hidden_states, frames, each_frame=False):
        """Score utterances, and their frames if asked to.

        Arguments
        ---------
        hidden_states : torch.Tensor
            [L + 1, B, T, C].
        frames : torch.Tensor
            Valid frames, [B].
        each_frame : bool
            Also return the frames' scores. Training needs them from the same
            call, so that DDP sees every parameter used.

        Returns
        -------
        scores : torch.Tensor
            Scores of the utterances, [B, classes + dimensions].
        frame_scores : torch.Tensor
            If asked for: those of all frames, padding included,
            [B, T, classes + dimensions].
        """
        states = hidden_states[-1]
        # Packed, so that the backward direction begins at the clip's end.
        packed = pack_padded_sequence(
            states, frames.cpu(), batch_first=True, enforce_sorted=False
        )
        context, _ = pad_packed_sequence(
            self.lstm(packed)[0],
            batch_first=True,
            total_length=states.shape[1],
        )
        scores = self.utterance(masked_mean(context, frames).relu())
        return (scores, self.frame(states)) if each_frame else scores


def frame_loss(logits, frames, labels):
    """Compute the cross-entropy of frames against their utterance's emotion.

    Arguments
    ---------
    logits : torch.Tensor
        Logits of every frame, [B, T, classes].
    frames : torch.Tensor
        Number of valid frames, [B].
    labels : torch.Tensor
        Classes of the utterances, [B].

    Returns
    -------
    torch.Tensor
        Mean over each clip's valid frames, float32, [B]; to be weighted
        like the utterance's own cross-entropy.

    Example
    -------
    >>> import torch
    >>> logits = torch.tensor([[[0.0, 0.0], [9.0, 0.0]]])
    >>> frame_loss(logits, torch.tensor([1]), torch.tensor([1]))
    tensor([0.6931])
    """
    targets = labels[:, None].expand(logits.shape[:2])
    losses = cross_entropy(
        logits.float().transpose(1, 2), targets, reduction="none"
    )
    return masked_mean(losses[..., None], frames)[..., 0]
