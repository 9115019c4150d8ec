"""From manifests to datasets and batches."""

import numpy as np
import pytest
import torch

from ser_peft.data import (
    batch_sampler,
    datasets,
    eval_batches,
    read_audio,
)

CLASSES = {
    4: ["neutral", "angry", "sad", "happy"],
    7: "neutral happy sad angry fearful disgust surprised".split(),
    8: "neutral calm happy sad angry fearful disgust surprised".split(),
}


def test_items_are_the_clips_and_their_labels(manifests, ravdess_tree):
    about, sets = datasets(manifests)
    assert list(sets) == ["train", "valid", "test"]
    for dataset in sets.values():
        for item in dataset:
            emotion = {"01": 0, "05": 1, "04": 2, "03": 3}[item["id"][6:8]]
            assert item["label"] == emotion
            assert item["speaker"] == item["id"][-2:]
    item = sets["test"][0]
    path = ravdess_tree / f"Actor_{item['speaker']}" / f"{item['id']}.wav"
    assert torch.equal(item["sig"], read_audio(path))
    assert about["classes"] == CLASSES[4]


def test_only_training_clips_are_cropped_at_random(manifests):
    _, whole = datasets(manifests)
    _, cropped = datasets(manifests, max_seconds=0.2)
    for split in ("valid", "test"):
        for one, other in zip(whole[split], cropped[split], strict=True):
            assert torch.equal(one["sig"], other["sig"])
    full, starts = whole["train"][0]["sig"], set()
    for _ in range(20):
        part = cropped["train"][0]["sig"]
        assert len(part) == 3200
        windows = full.unfold(0, 3200, 1)
        (start,) = (windows == part).all(1).nonzero()[:, 0].tolist()
        starts.add(start)
    assert len(starts) > 10
    torch.manual_seed(3)
    first = cropped["train"][0]["sig"]
    torch.manual_seed(3)
    assert torch.equal(first, cropped["train"][0]["sig"])


def test_crop_keeps_at_least_its_share(manifests):
    _, whole = datasets(manifests)
    _, cropped = datasets(manifests, crop=0.5)
    full = len(whole["train"][0]["sig"])
    shares = [len(cropped["train"][0]["sig"]) / full for _ in range(50)]
    assert 0.5 - 1e-3 <= min(shares) < 0.7 and 0.8 < max(shares) <= 1
    assert len(cropped["test"][0]["sig"]) == len(whole["test"][0]["sig"])


# ------------------------------------------------------------------- batches


class Clips:
    """A dataset of so many random lengths; some batches cannot be full."""

    def __init__(self, count, low=0.5, high=12.0):
        lengths = np.random.default_rng(count).uniform(low, high, count)
        self.data_ids = [f"clip{i}" for i in range(count)]
        self.data = {
            key: {"duration": round(float(length), 4)}
            for key, length in zip(self.data_ids, lengths, strict=True)
        }
        self.lengths = [self.data[key]["duration"] for key in self.data_ids]

    def __len__(self):
        return len(self.data_ids)


def padded(clips, batch, limit=np.inf):
    """Seconds in a batch, padding included."""
    return len(batch) * max(min(clips.lengths[i], limit) for i in batch)


@pytest.mark.parametrize("count", [1, 3, 203])
@pytest.mark.parametrize("seconds", [5, 30, 1000])
def test_eval_batches_hold_every_clip_once(count, seconds):
    clips = Clips(count)
    batches = eval_batches(clips, seconds)
    assert sorted(i for batch in batches for i in batch) == list(range(count))
    limit = max(seconds, max(clips.lengths))
    assert all(padded(clips, batch) <= limit for batch in batches)
    longest = [max(clips.lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert batches == eval_batches(clips, seconds)


def test_clips_of_one_length_fill_their_batches():
    clips = Clips(40, low=2, high=2)
    assert [len(batch) for batch in eval_batches(clips, 20)] == [10] * 4


def test_training_batches_follow_seed_and_epoch_alone():
    clips = Clips(203)

    def draw(sampler, epoch):
        sampler.set_epoch(epoch)
        return list(sampler)

    sampler = batch_sampler(clips, 30, shuffle=True, seed=1)
    epochs = [draw(sampler, epoch) for epoch in range(1, 6)]
    for batches in epochs:
        seen = sorted(i for batch in batches for i in batch)
        assert seen == list(range(203))
        assert all(padded(clips, batch) <= 30 for batch in batches)
        assert len(batches) == len(sampler)
    assert all(epochs[0] != other for other in epochs[1:])
    # A run that starts again in epoch 4 draws what it would have drawn.
    restarted = batch_sampler(clips, 30, shuffle=True, seed=1)
    assert draw(restarted, 4) == epochs[3]
    assert draw(restarted, 2) == epochs[1]


def test_no_draw_of_one_seed_is_that_of_another():
    clips = Clips(203)
    draws = []
    for seed in range(3):
        sampler = batch_sampler(clips, 30, shuffle=True, seed=seed)
        for epoch in range(1, 5):
            sampler.set_epoch(epoch)
            draws.append(list(sampler))
    assert not any(
        one == other for i, one in enumerate(draws) for other in draws[:i]
    )


def test_cropped_clips_count_as_cropped():
    clips = Clips(203)
    batches = list(batch_sampler(clips, 30, shuffle=True, max_seconds=3))
    assert all(padded(clips, batch, limit=3) <= 30 for batch in batches)
    assert max(map(len, batches)) >= 10
    assert (
        min(
            len(b)
            for b in batch_sampler(clips, 2, shuffle=False, max_seconds=3)
        )
        == 1
    )


def test_first_seconds_of_every_clip(manifests):
    _, whole = datasets(manifests)
    _, cut = datasets(manifests, first_seconds=0.25)
    for split, dataset in cut.items():
        for long, short in zip(whole[split], dataset, strict=True):
            assert len(short["sig"]) == 4000
            assert short["sig"].equal(long["sig"][:4000])
