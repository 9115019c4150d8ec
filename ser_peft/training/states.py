"""Hidden states of frozen layers, kept in memory."""

import torch

__all__ = ["FrozenStates"]


class FrozenStates:
    """Hidden states of clips (and of texts), in float16 within a budget.

    A state that float16 cannot hold keeps its own precision.

    Arguments
    ---------
    gigabytes : float
        Of RAM in this process. What does not fit is computed every time.

    Example
    -------
    >>> kept = FrozenStates(1)
    >>> kept.put("encoder", ["a"], torch.ones(3, 1, 5, 2), torch.tensor([4]))
    >>> states, frames = kept.batch("encoder", ["a"])
    >>> states.shape, frames
    (torch.Size([3, 1, 4, 2]), tensor([4]))
    """

    def __init__(self, gigabytes):
        self.left = gigabytes * 1e9
        self.clips = {}
        self.full = not gigabytes
        """Whether some states did not fit."""

    def __contains__(self, name_and_key):
        """Whether the states of an (encoder's name, key) are kept."""
        return name_and_key in self.clips

    def put(self, name, keys, states, frames):
        """Keep the states of a batch, as far as they fit.

        Arguments
        ---------
        name : str
            Which encoder's.
        keys : list
            One hashable object a clip.
        states : torch.Tensor
            [layers + 1, B, T', C], from `PeftLobe.below`.
        frames : torch.Tensor
            Valid frames of each clip, [B].
        """
        for i, (key, count) in enumerate(
            zip(keys, frames.tolist(), strict=True)
        ):
            clip = states[:, i, :count]
            half = clip.half()
            if half.isfinite().all():
                clip = half
            if clip.nbytes > self.left:
                self.full = True
            elif (name, key) not in self.clips:
                self.left -= clip.nbytes
                self.clips[name, key] = clip.cpu().clone()

    def trim(self, name, layers):
        """Forget the states above a layer; all of them where it is None."""
        for place, clip in [*self.clips.items()]:
            if place[0] == name and (layers is None or len(clip) > layers + 1):
                del self.clips[place]
                self.left += clip.nbytes
                self.full = False
                if layers is not None:
                    self.clips[place] = clip[: layers + 1].clone()
                    self.left -= self.clips[place].nbytes

    def batch(self, name, keys, below=None, device="cpu"):
        """The states of a batch, padded with zeros.

        Arguments
        ---------
        name : str
            Which encoder's.
        keys : list
            One a clip.
        below : tuple of torch.Tensor, optional
            What `PeftLobe.below` gives for those that are not kept.
        device : str
            Where they are wanted.

        Returns
        -------
        states : torch.Tensor
            [layers + 1, B, T', C], float32.
        frames : torch.Tensor
            Valid frames of each clip, [B], on the CPU.
        """
        clips = [self.clips.get((name, key)) for key in keys]
        if below is not None:
            states, frames = below
            fresh = zip(states.unbind(1), frames.tolist(), strict=True)
            fresh = iter([clip[:, :count] for clip, count in fresh])
            clips = [next(fresh) if clip is None else clip for clip in clips]
        frames = torch.tensor([clip.shape[1] for clip in clips])
        layers, _, width = clips[0].shape
        # To a GPU in one piece, as few bytes as can be.
        away = torch.device(device).type == "cuda"
        half = away and all(clip.dtype == torch.float16 for clip in clips)
        states = torch.empty(
            (layers, len(clips), int(frames.max()), width),
            dtype=torch.float16 if half else torch.float32,
            pin_memory=away,
        )
        for i, clip in enumerate(clips):
            states[:, i, : clip.shape[1]] = clip
            states[:, i, clip.shape[1] :] = 0
        return states.to(device, non_blocking=True).float(), frames
