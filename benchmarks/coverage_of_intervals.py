"""How often a 95 % interval of UA holds the UA of all speakers.

    python benchmarks/coverage_of_intervals.py --draws 1000

Test sets are drawn again and again of a population of speakers whose UA is
known: of 20 to 60 utterances each, in four classes of unequal sizes; how well
a speaker is recognised does not vary, some or much: the logit of the recalls
has a standard deviation of 0, 0.5 or 1, half as much again from class to class.
Counted is how often an interval holds the population's UA, in %, with its mean
width in points behind: that in use, and two bootstraps of 1,000 resamples, the
middle 95 % of which are taken: of speakers with all they said, and of speakers
and then of the utterances of each. docs/scores.md has the table.
"""

import argparse

import numpy as np
from scipy.special import expit

from ser_peft.evaluation.metrics import confusion_interval, from_confusion

CLASSES = 4
SHARES = 0.3, 0.3, 0.2, 0.2
SPREADS = 0.0, 0.5, 1.0
RESAMPLES = 1000
NUMBERS = 2, 3, 4, 5, 6, 8, 12, 16, 24
WAYS = {
    "jackknife, Student's t": lambda counts, rng: confusion_interval(counts),
    "bootstrap of speakers": lambda counts, rng: percentiles(
        counts, speakers_drawn(counts, rng) @ counts.reshape(len(counts), -1)
    ),
    "of speakers, then utterances": lambda counts, rng: percentiles(
        counts, utterances_drawn(counts, rng)
    ),
}


def test_set(rng, n_speakers, level, spread):
    """Draw the confusion matrix of each of some speakers, [S, C, C].

    Arguments
    ---------
    rng : np.random.Generator
    n_speakers : int
    level, spread : float
        Mean and standard deviation of the logit of a speaker's recalls.

    Returns
    -------
    np.ndarray
        Counts, rows are the truth.
    """
    recalls = speakers(rng, n_speakers, level, spread)
    sizes = rng.multinomial(rng.integers(20, 61, n_speakers), SHARES)
    others = (1 - recalls) / (CLASSES - 1)
    chances = np.repeat(others[..., None], CLASSES, -1)
    chances[:, range(CLASSES), range(CLASSES)] = recalls
    return rng.multinomial(sizes, chances)


def speakers(rng, count, level, spread):
    """Draw how well speakers' classes are recognised, [count, C]."""
    own = rng.normal(size=(count, 1)) + rng.normal(size=(count, CLASSES)) / 2
    return expit(level + spread * own)


def speakers_drawn(counts, rng):
    """How often each speaker is in each resample, [R, S]."""
    n = len(counts)
    return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


def utterances_drawn(counts, rng):
    """Sums of resamples of speakers, then of utterances of each, [R, C C]."""
    flat = counts.reshape(len(counts), -1)
    sizes = flat.sum(1)
    often = speakers_drawn(counts, rng)
    # Who is drawn twice has other utterances each time.
    return rng.multinomial(often * sizes, flat / sizes[:, None]).sum(1)


def percentiles(counts, sums):
    """The middle 95 % of the UA of resamples."""
    drawn = from_confusion(sums.reshape(-1, CLASSES, CLASSES))
    return np.percentile(drawn, [2.5, 97.5])


def coverage(way, n_speakers, level, spread, draws, seed=0):
    """Measure an interval.

    Arguments
    ---------
    way : callable
        One of `WAYS`: takes counts [S, C, C] and a generator, gives both ends.
    n_speakers : int
        Of each test set.
    level, spread : float
        As for `test_set`.
    draws, seed : int
        Test sets.

    Returns
    -------
    tuple of (float, float)
        Share of the intervals that hold the population's UA, and their mean
        width.
    """
    rng = np.random.default_rng(seed)
    truth = speakers(rng, 200_000, level, spread).mean()
    ends = np.array(
        [
            way(test_set(rng, n_speakers, level, spread), rng)
            for _ in range(draws)
        ]
    )
    low, high = ends.T
    held = (low <= truth) & (truth <= high)
    return held.mean(), (high - low).mean()


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--speakers", type=int, nargs="+", default=NUMBERS)
    parser.add_argument("--levels", type=float, nargs="+", default=[0.9, 2.6])
    args = parser.parse_args()
    print("| UA | speakers |", " | ".join(WAYS), "|")
    print("| --- | --- |" + " --- |" * len(WAYS))
    for level in args.levels:
        for count in args.speakers:
            cells = [f"{expit(level):.2f}", str(count)]
            for way in WAYS.values():
                found = [
                    coverage(way, count, level, spread, args.draws)
                    for spread in SPREADS
                ]
                held, widths = np.transpose(found) * 100
                cells.append(f"{_listed(held)} ({_listed(widths)})")
            print("|", " | ".join(cells), "|", flush=True)


def _listed(values):
    return " ".join(f"{value:.0f}" for value in values)


if __name__ == "__main__":
    main()
