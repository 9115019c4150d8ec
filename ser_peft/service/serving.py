"""A model at work for many clients: limits, uploads, answers."""

import asyncio
import shutil
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ser_peft.data.audio import Recording
from ser_peft.data.soundfiles import Sound
from ser_peft.errors import InputError, printable
from ser_peft.report.timeline_page import render_timeline
from ser_peft.service.batching import Batcher, Turns

__all__ = ["Limits", "Service", "TooLong"]

AHEAD = 32
"""Recordings that are decoded and wait for the model at most; others wait as
files."""
FOLLOWED = 2
"""Timelines at once; they are long, and the thread pool has others to do."""
NAME = 200
"""Characters of a file's name that are given back."""


class TooLong(InputError):
    """Error for a recording of more seconds than the service takes."""


@dataclass(frozen=True)
class Limits:
    """What a service takes from its clients.

    Arguments
    ---------
    max_mb : float
        Megabytes of a request, all of its files together.
    max_seconds : float
        Seconds of a recording.
    max_requests : int
        Requests that are worked on at once; others are told to come back.
    """

    max_mb: float = 50.0
    max_seconds: float = 600.0
    max_requests: int = 128

    def __post_init__(self):
        """Refuse limits that let nothing in."""
        for key, value in vars(self).items():
            if not value > 0:
                flag = f"--{key.replace('_', '-')}"
                raise InputError(f"{flag} {value}: give a number above 0")


class Service:
    """A model, its queue, and the one folder that uploads are kept in.

    Arguments
    ---------
    model : ser_peft.inference.Recognizer
        Model.
    about : ser_peft.service.about.About
        What is known of it.
    limits : Limits
        What clients may send.
    batch_seconds : float, optional
        Seconds of audio that are scored at once.
    """

    def __init__(self, model, about, limits=None, batch_seconds=None):
        self.model, self.about = model, about
        self.limits = limits or Limits()
        self.batcher = Batcher(model, batch_seconds)
        self._folder = tempfile.TemporaryDirectory(prefix="ser_peft.")
        self._ahead = asyncio.Semaphore(AHEAD)
        self._followed = asyncio.Semaphore(FOLLOWED)

    @property
    def folder(self):
        """Folder of the uploads."""
        return Path(self._folder.name)

    def __enter__(self):
        """Start to score."""
        self.batcher.__enter__()
        return self

    def __exit__(self, *_):
        """Answer what waits, and remove all uploads."""
        self.batcher.__exit__()
        self._folder.cleanup()

    @asynccontextmanager
    async def stored(self, upload):
        """Keep an upload as a file, under a name that no client chose.

        Arguments
        ---------
        upload : file object
            Binary, open.

        Yields
        ------
        Path
            The file, removed when the block ends.
        """
        path = self.folder / uuid4().hex
        try:
            with open(path, "xb") as file:
                await asyncio.to_thread(shutil.copyfileobj, upload, file)
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def answer(self, path, name, text=""):
        """Name the emotion of a stored recording.

        Arguments
        ---------
        path : str or Path
            Upload.
        name : str
            Its name at the client's.
        text : str
            Transcript, for a model that reads it.

        Returns
        -------
        dict
            ``file``, ``seconds``, and what `Recognizer.answer` gives.

        Raises
        ------
        InputError
            If it cannot be used; `TooLong` if it is too long.
        """
        name = shown(name)
        async with self._ahead:
            wav = await asyncio.to_thread(self._read, path, name)
            found = await asyncio.wrap_future(
                self.batcher.submit(wav, name, text)
            )
        if found.problem:
            raise found.problem
        answer = self.model.answer(found.scores)
        return {"file": name, "seconds": round(found.seconds, 3), **answer}

    def _read(self, path, name):
        self._check_length(path, name)
        return Recording(path, name=name).read()

    async def timeline(self, path, name, window=4.0, hop=1.0, page=False):
        """Follow emotions through a stored recording.

        Its windows take turns with the clips of other clients.

        Arguments
        ---------
        path, name
            See `answer`.
        window, hop : float
            Seconds, see `Recognizer.timeline`.
        page : bool
            Whether the page is wanted too.

        Returns
        -------
        timeline : ser_peft.inference.timeline.Timeline
            Timeline.
        page : str or None
            HTML, see `ser_peft.report.timeline_page`.

        Raises
        ------
        InputError
            See `answer`.
        """
        model, name = Turns(self.batcher), shown(name)
        async with self._followed:
            try:
                return await asyncio.to_thread(
                    self._follow, model, path, name, window, hop, page
                )
            finally:
                model.left = True

    def _follow(self, model, path, name, window, hop, page):
        self._check_length(path, name)
        recording = Recording(path, name=name)
        found = model.timeline(recording, window, hop, name=name)
        if page:
            page = render_timeline(found, recording, model=self.about.name)
        return found, page or None

    def _check_length(self, path, name):
        """Refuse a recording that is too long, whatever its header says.

        A few kilobytes may hold hours: no more is decoded than is allowed.
        """
        most = self.limits.max_seconds
        sound = Sound(path, name=name)
        for _ in sound:
            if sound.frames > most * sound.rate:
                raise TooLong(
                    f"{name}: longer than {most:g} s, which is the most that "
                    "is taken here; cut it"
                )


def shown(name):
    """Name of a client's file, fit for messages and tables."""
    name = printable(name or "upload")
    return name if len(name) <= NAME else name[: NAME - 1] + "…"
