"""Balance of classes over speakers: equal folds, confounding.

Without torch, and in integers where something is chosen: the same on every
machine.
"""

import math
from collections import Counter, defaultdict

import numpy as np

__all__ = ["confounding", "split_speakers"]

CONFOUNDED = 0.4  # so far from chance (0) to one class a speaker (1)

SHARE = 2**16  # a whole, in integers
STARTS = 400  # speakers times starts of the search: few speakers are hardest


def split_speakers(clips, parts):
    """Split speakers into parts with classes as alike as can be.

    Each part should have every class, and the same share of each class's
    clips, of each class's speakers and of all clips. From greedy splits, the
    largest speaker first and in drawn orders, speakers move and change places
    while that makes the parts more alike; the best split counts.

    scikit-learn's StratifiedGroupKFold is greedy: of 20 drawn corpora of 29
    speakers, of whom 4 are angry, it leaves a part without them in 4, this in
    none, and the parts differ twice as much in each class's speakers.

    Arguments
    ---------
    clips : list of (str, str)
        Speaker and class of each clip, in any order.
    parts : int
        Number of parts; at most the number of speakers.

    Returns
    -------
    list of list of str
        Speakers of each part, sorted.

    Example
    -------
    >>> clips = [("ann", "sad"), ("ben", "sad"), ("cy", "sad"), ("cy", "glad")]
    >>> split_speakers([*clips, ("dan", "glad")], 2)
    [['ben', 'cy'], ['ann', 'dan']]
    """
    counts = Counter((speaker, str(name)) for speaker, name in clips)
    speakers = sorted({speaker for speaker, _ in counts})
    names = sorted({name for _, name in counts})
    clips_of = np.array(
        [[counts[s, n] for n in names] for s in speakers], np.int64
    )
    present = (clips_of > 0).astype(np.int64)
    everything = clips_of.sum(1, keepdims=True)
    # Each column sums up to a whole; that of speakers counts half.
    shares = np.hstack(
        [SHARE // 2 * present // present.sum(0)]
        + [SHARE * n // n.sum(0) for n in (clips_of, everything)]
    )
    missing = shares.shape[1] * SHARE**2  # worse than any shares

    def unlike(sums):
        """Badness of parts, [..., 2C + 1]; least where all are alike."""
        absent = (sums[..., : len(names)] == 0).sum(-1)
        return (sums**2).sum(-1) + missing * absent

    # RandomState's numbers are the same for good, by NumPy's promise.
    rng = np.random.RandomState(0)
    order = np.argsort(-(shares**2).sum(1), kind="stable")
    best, lowest = None, None
    for _ in range(1 + STARTS // len(speakers)):
        part, sums = _greedy(shares, order, parts, unlike)
        _exchange(shares, part, sums, unlike)
        if best is None or unlike(sums).sum() < lowest:
            best, lowest = part, unlike(sums).sum()
        order = rng.permutation(len(speakers))
    return [
        [speakers[i] for i in np.flatnonzero(best == number)]
        for number in range(parts)
    ]


def _greedy(shares, order, parts, unlike):
    """Put each speaker into the part where it does most good."""
    part = np.zeros(len(shares), int)
    sums = np.zeros((parts, shares.shape[1]), np.int64)
    for i in order:
        part[i] = np.argmin(unlike(sums + shares[i]) - unlike(sums))
        sums[part[i]] += shares[i]
    return part, sums


def _exchange(shares, part, sums, unlike):
    """Move speakers and exchange them in pairs while parts get more alike."""
    parts = len(sums)
    # An empty speaker in each part: to change places with it is to move.
    shares = np.vstack([shares, np.zeros_like(sums)])
    place = np.concatenate([part, np.arange(parts)])
    tried, i = 0, 0
    while tried < len(part):
        step, before = shares - shares[i], unlike(sums)
        change = unlike(sums[place[i]] + step) - before[place[i]]
        change += unlike(sums[place] - step) - before[place]
        change[place == place[i]] = 0
        j = np.argmin(change)
        tried += 1
        if change[j] < 0:
            sums[place[i]] += step[j]
            sums[place[j]] -= step[j]
            if j < len(part):
                place[i], place[j] = place[j], place[i]
            else:
                place[i] = place[j]
            tried = 0
        i = (i + 1) % len(part)
    part[:] = place[: len(part)]


def confounding(entries):
    """Measure how far the speaker gives away the class, beyond chance.

    Arguments
    ---------
    entries : iterable of dict
        Entries of manifests, with ``speaker`` and ``emotion``.

    Returns
    -------
    dict
        ``speakers`` who have several clips, those of them who have
        ``one_class`` only, and for two clips of such a speaker the chance
        that they are of the ``same_class`` (mean over speakers); ``expected``
        is what it would be if labels were shuffled over clips, and
        ``beyond_chance`` where it lies between that (0) and always (1). They
        are ``confounded`` from 0.4 on, if that is more than three standard
        deviations of what shuffled labels give. ``rarest`` is the class of
        fewest speakers, ``rarest_speakers`` how many these are. Empty where
        there is nothing to measure.

    Example
    -------
    >>> clips = [("a", "sad")] * 3 + [("b", "glad")] * 3
    >>> found = confounding({"speaker": s, "emotion": e} for s, e in clips)
    >>> found["one_class"], round(found["expected"], 2), found["beyond_chance"]
    (2, 0.4, 1.0)
    """
    of_speaker, speakers = defaultdict(Counter), defaultdict(set)
    for entry in entries:
        of_speaker[entry["speaker"]][entry["emotion"]] += 1
        speakers[entry["emotion"]].add(entry["speaker"])
    several = [c for c in of_speaker.values() if c.total() > 1]
    everything = sum(of_speaker.values(), Counter())
    if not several or len(speakers) < 2:
        return {}
    same = sum(map(_same, several)) / len(several)
    expected = _same(everything)
    pairs = [counts.total() * (counts.total() - 1) / 2 for counts in several]
    # Pairs of shuffled labels are independent, but for a class's share.
    chance = expected * (1 - expected) * sum(1 / n for n in pairs)
    beyond = (same - expected) / (1 - expected)
    rarest = min(speakers, key=lambda name: (len(speakers[name]), name))
    return {
        "confounded": beyond > CONFOUNDED
        and same - expected > 3 * math.sqrt(chance) / len(several),
        "speakers": len(several),
        "one_class": sum(len(counts) == 1 for counts in several),
        "same_class": same,
        "expected": expected,
        "beyond_chance": beyond,
        "rarest": rarest,
        "rarest_speakers": len(speakers[rarest]),
    }


def _same(counts):
    """Probability that two clips are of one class, by the classes' counts."""
    pairs = sum(n * (n - 1) for n in counts.values())
    return pairs / (counts.total() * (counts.total() - 1))
