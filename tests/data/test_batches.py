"""From manifests to datasets and batches."""

from collections import Counter

import numpy as np
import pytest
import torch

from ser_peft.data import (
    batch_sampler,
    datasets,
    eval_batches,
    read_audio,
)
from ser_peft.training.sampler import RankSampler

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


@pytest.mark.parametrize("counts", [(150, 40, 13), (30, 1), (7,)])
def test_balanced_batches(counts):
    """Kinds are equally frequent, in batches as long, alike in number."""
    clips = Clips(sum(counts))
    names = [n for n, count in enumerate(counts) for _ in range(count)]
    np.random.default_rng(1).shuffle(names)
    kinds = dict(zip(clips.data_ids, names, strict=True))
    each = len(clips) // len(counts)

    def draw(sampler, epoch):
        sampler.set_epoch(epoch)
        return [*sampler]

    sampler = batch_sampler(clips, 30, shuffle=True, seed=1, kinds=kinds)
    epochs = [draw(sampler, epoch) for epoch in range(1, 41)]
    ever = Counter()
    for batches in epochs:
        drawn = Counter(i for batch in batches for i in batch)
        often = Counter(names[i] for i in drawn.elements())
        assert often == dict.fromkeys(range(len(counts)), each)
        assert all(padded(clips, batch) <= 30 for batch in batches)
        assert len(batches) == len(sampler)
        # No clip of a frequent kind comes twice.
        assert all(drawn[i] <= 1 for i in drawn if counts[names[i]] >= each)
        ever += drawn
    assert len(ever) == len(clips)
    if len(counts) > 1:  # similar lengths, as without it
        spread = [
            np.ptp([clips.lengths[i] for i in batch]) for batch in epochs[0]
        ]
        assert np.mean(spread) < np.ptp(clips.lengths) / 3
        assert epochs[0] != epochs[1]
    # A run that starts again in epoch 4 draws what it would have drawn.
    restarted = batch_sampler(clips, 30, shuffle=True, seed=1, kinds=kinds)
    assert draw(restarted, 4) == epochs[3]
    other = batch_sampler(clips, 30, shuffle=True, seed=2, kinds=kinds)
    assert len(other) == len(sampler)
    assert draw(other, 4) != epochs[3]


def test_two_processes_share_balanced_batches():
    clips = Clips(60)
    kinds = {key: i < 50 for i, key in enumerate(clips.data_ids)}
    whole = batch_sampler(clips, 30, shuffle=True, kinds=kinds)
    ranks = [
        RankSampler(
            batch_sampler(clips, 30, shuffle=True, kinds=kinds),
            num_replicas=2,
            rank=rank,
        )
        for rank in range(2)
    ]
    for epoch in (1, 2):
        parts = []
        for one in (whole, *ranks):
            one.set_epoch(epoch)
            parts.append([*map(tuple, one)])
        assert len(parts[1]) == len(parts[2])
        assert {*parts[1], *parts[2]} == {*parts[0]}


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
