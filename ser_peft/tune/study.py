"""Study: the trials of a search, kept in a folder that processes share."""

import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ser_peft.errors import InputError, extra
from ser_peft.storage.lock import check_free, only_process
from ser_peft.tune.space import settings_of

__all__ = ["Study"]

JOURNAL = "study.log"
SURE = 0.1
"""p below which a trial is stopped: its speakers fare worse than the best
trial's."""
FEWEST = 4
"""Trials with a figure, for importances."""


class Study:
    """Trials of a search, by Optuna.

    They are kept in ``study.log``, a journal of Optuna's: it is written by
    appending under a lock that network disks have too, where SQLite's may
    not hold. Each process holds the folder of the trial that it is at, so
    that a trial whose process is gone is known, and taken over.

    Arguments
    ---------
    folder : str or Path
        Of the study.
    space : dict
        From `ser_peft.tune.space.read_space`.
    own : dict
        Key -> parameter of the yaml's own value: trial 0.
    trials : int
        Number of trials with a figure (or stopped before they had one).
    seed : int
        What is drawn follows from it, the trial's number and the trials
        before.
    """

    def __init__(self, folder, space, own, trials, seed):
        with extra("tune"):
            import optuna
        self.optuna, self.folder = optuna, Path(folder)
        self.space, self.wanted, self.seed = space, trials, seed
        self.states = optuna.trial.TrialState
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        with self.alone():
            self.study = self._open()
            if not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(own)

    def _open(self):
        """Optuna's study, made where it is missing."""
        journal = self.optuna.storages.journal
        path = self.folder / JOURNAL
        if path.exists():
            # A full disk may have taken half of the last line.
            with open(path, "rb+") as file:
                whole = file.read().rpartition(b"\n")
                file.truncate(len(whole[0]) + len(whole[1]))
        lock = journal.JournalFileOpenLock(str(path))
        backend = journal.JournalFileBackend(str(path), lock)
        return self.optuna.create_study(
            study_name="tune",
            storage=self.optuna.storages.JournalStorage(backend),
            direction="maximize",
            # Made for scores of the same cases, here speakers.
            pruner=self.optuna.pruners.WilcoxonPruner(p_threshold=SURE),
            load_if_exists=True,
        )

    @contextmanager
    def alone(self):
        """Let no other process take a trial, or write the files of all."""
        with only_process(self.folder, "output_folder", wait=True, say=False):
            yield

    def folder_of(self, number):
        """Folder of a trial."""
        return self.folder / "trials" / f"{number:03d}"

    @contextmanager
    def next_trial(self):
        """Take over a trial whose process is gone, or begin one; hold it.

        Yields
        ------
        optuna.trial.Trial or None
            None if no more are wanted, or others are at the last ones.
        """
        with ExitStack() as held:
            with self.alone():
                trial = self._take()
                if trial:
                    folder = self.folder_of(trial.number)
                    held.enter_context(only_process(folder, "output_folder"))
            yield trial

    def _take(self):
        trials = self.study.get_trials(deepcopy=False)
        number = len(trials)
        for frozen in trials:
            if frozen.state == self.states.WAITING:
                number = frozen.number
            if frozen.state != self.states.RUNNING:
                continue
            if _is_free(self.folder_of(frozen.number)):
                # It draws once more what it drew, or was about to draw.
                self._seed(frozen.number)
                trial = self.optuna.trial.Trial(self.study, frozen._trial_id)
                break
        else:
            if not self.left(begun=True):
                return None
            self._seed(number)
            trial = self.study.ask()
        settings_of(self.space, trial)
        return trial

    def _seed(self, number):
        # A sampler that draws on and on would not know where it was.
        seed = (self.seed + number) % 2**32
        sampler = self.optuna.samplers.TPESampler(seed=seed)
        self.study.sampler = sampler

    def left(self, begun=False):
        """Number of trials that are to be done, or to be begun."""
        states = [self.states.COMPLETE, self.states.PRUNED]
        states += [self.states.RUNNING] * begun
        found = self.study.get_trials(deepcopy=False, states=states)
        return max(0, self.wanted - len(found))

    def hopeless(self, trial, units, seeds):
        """Report a trial's speakers; is it sure to stay behind the best?

        Arguments
        ---------
        trial : optuna.trial.Trial
            Which runs.
        units : dict
            See `ser_peft.tune.outcome.outcome`.
        seeds : list of int
            All seeds of the search.

        Returns
        -------
        bool
            False in the first fold: its speakers share a model, and its luck.
        """
        told = self.study.get_trials(deepcopy=False)[trial.number]
        # The same number for the same fold, seed and speaker in all trials.
        for fold, of_seeds in units.items():
            for seed, of_speakers in of_seeds.items():
                place = sorted(seeds).index(seed)
                for speaker, ua in enumerate(of_speakers):
                    step = speaker + 1000 * (place + 1000 * fold)
                    if step not in told.intermediate_values:
                        trial.report(ua, step)
        return len(units) > 1 and trial.should_prune()

    def tell(self, trial, state, record):
        """End a trial.

        Arguments
        ---------
        trial : optuna.trial.Trial
            Which runs.
        state : str
            ``COMPLETE``, ``PRUNED`` or ``FAIL``.
        record : dict
            What the table of trials has of it besides its settings.
        """
        trial.set_user_attr("record", record)
        state = self.states[state]
        complete = state == self.states.COMPLETE
        self.study.tell(trial, record["ua"] if complete else None, state)

    def trials(self):
        """All trials, in their order.

        Returns
        -------
        list of dict
            ``number``, ``state``, ``params`` (key -> value, as far as drawn)
            and what `tell` was given.
        """
        return [
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "params": trial.params,
                **trial.user_attrs.get("record", {}),
            }
            for trial in self.study.get_trials(deepcopy=False)
        ]

    def importances(self):
        """Share of each key in the spread of UA, by fANOVA.

        Hutter, Hoos & Leyton-Brown, "An efficient approach for assessing
        hyperparameter importance", ICML 2014.

        Returns
        -------
        dict
            Key -> share, the largest first; empty with too few trials, or
            where all scored alike.
        """
        found = self.study.get_trials(
            deepcopy=False, states=[self.states.COMPLETE]
        )
        if len(found) < FEWEST or len({trial.value for trial in found}) < 2:
            return {}
        importance = self.optuna.importance
        return importance.get_param_importances(
            self.study,
            evaluator=importance.FanovaImportanceEvaluator(seed=0),
        )


def _is_free(folder):
    try:
        check_free(folder, "output_folder")
    except InputError:  # another process is at this trial
        return False
    return True
