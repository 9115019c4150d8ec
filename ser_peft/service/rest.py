"""Addresses for programs: /v1/predict, /v1/timeline, /healthz."""

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from pydantic import BaseModel, Field

from ser_peft.errors import InputError
from ser_peft.service.serving import TooLong, shown

__all__ = ["router"]

ALL_METHODS = "GET HEAD POST PUT PATCH DELETE OPTIONS".split()


class Answer(BaseModel):
    """What is found in one recording, or why nothing is."""

    file: str = Field(description="name of the file, as it was sent")
    seconds: float | None = Field(None, description="duration")
    label: str | None = Field(None, description="likeliest class")
    scores: dict[str, float] | None = Field(
        None, description="calibrated probability of every class"
    )
    uncalibrated: dict[str, float] | None = Field(
        None, description="the same, without temperature"
    )
    unsure: bool | None = Field(
        None, description="whether no class reaches the model's threshold"
    )
    dimensions: dict[str, float] | None = Field(
        None, description="arousal and the like, on the corpus's scale"
    )
    error: str | None = Field(
        None, description="why there is no answer for this one of several files"
    )


class Answers(BaseModel):
    """What a model finds in recordings, in their order."""

    model: str = Field(description="name of the model")
    answers: list[Answer]


class Segment(BaseModel):
    """A stretch of speech with one label."""

    start: float = Field(description="seconds")
    end: float = Field(description="seconds")
    label: str | None = Field(None, description="none where it is unsure")
    unsure: bool = False
    scores: dict[str, float] = Field(description="as of a clip")
    dimensions: dict[str, float] = Field(description="as of a clip")


class Timeline(BaseModel):
    """Emotions along a recording, where somebody speaks."""

    model: str = Field(description="name of the model")
    file: str = Field(description="name of the file, as it was sent")
    seconds: float = Field(description="duration")
    window: float = Field(description="seconds that the model heard at once")
    hop: float = Field(description="seconds from one window to the next")
    segments: list[Segment]


class Health(BaseModel):
    """Which model is ready."""

    ready: bool
    model: str = Field(description="name of the model")
    version: str = Field(description="version of ser_peft")
    classes: list[str]
    dimensions: list[str]


class Error(BaseModel):
    """Why a request is refused."""

    error: str = Field(description="one line")


REFUSALS = {
    code: {"model": Error, "description": why}
    for code, why in {
        400: "not a form of files",
        401: "token missing or wrong",
        408: "the request stopped coming",
        413: "too large, or too long",
        422: "nothing that can be used: no audio, silent, too short",
        503: "too many requests at once; Retry-After says when to come back",
    }.items()
}
Files = Annotated[list[UploadFile], File(description="audio files")]


def router(service):
    """Addresses of a service.

    Arguments
    ---------
    service : ser_peft.service.serving.Service
        Service, within its context.

    Returns
    -------
    fastapi.APIRouter
    """
    routes, about = APIRouter(), service.about

    @routes.get("/healthz", responses={401: REFUSALS[401]})
    async def healthz() -> Health:
        """Say which model is ready."""
        return Health(
            ready=True,
            model=about.name,
            version=about.version,
            classes=service.model.classes,
            dimensions=[*service.model.dimensions],
        )

    @routes.post(
        "/v1/predict",
        responses=REFUSALS,
        response_model_exclude_none=True,
    )
    async def predict(
        request: Request,
        files: Files,
        texts: Annotated[
            list[str],
            Form(description="transcripts, one a file, if the model reads any"),
        ] = [],  # noqa: B006, copied by FastAPI
    ) -> Answers:
        """Name the emotion of recordings.

        Of several files, those that cannot be used have an ``error`` in place
        of an answer; if none can be used, the request is refused.
        """
        if texts and len(texts) != len(files):
            raise HTTPException(
                422, f"texts: {len(texts)} for {len(files)} files; give one "
                "each",
            )  # fmt: skip
        texts = texts or [""] * len(files)
        found = await _while_connected(
            request,
            asyncio.gather(
                *map(one_answer, files, texts), return_exceptions=True
            ),
        )
        return Answers(model=about.name, answers=_checked(files, found))

    async def one_answer(file, text):
        async with service.stored(file.file) as path:
            return await service.answer(path, file.filename, text)

    @routes.post("/v1/timeline", responses=REFUSALS)
    async def timeline(
        request: Request,
        file: Annotated[UploadFile, File(description="an audio file")],
        window: Annotated[float, Form(ge=0.5, le=30)] = 4.0,
        hop: Annotated[float, Form(ge=0.25, le=30)] = 1.0,
    ) -> Timeline:
        """Follow emotions through a recording."""
        async with service.stored(file.file) as path:
            work = service.timeline(path, file.filename, window, hop)
            try:
                found, _ = await _while_connected(request, work)
            except InputError as error:
                raise _unusable(error) from error
        return Timeline(
            model=about.name,
            file=found.name,
            **{
                key: getattr(found, key) for key in ("seconds", "window", "hop")
            },
            segments=[asdict(segment) for segment in found.segments],
        )

    @routes.api_route(
        "/v1/{_:path}", methods=ALL_METHODS, include_in_schema=False
    )
    async def unknown():
        raise HTTPException(404, "nothing here; see /openapi.json")

    return routes


def _checked(files, found):
    """Answers, with errors in place of some; refused if there is no other."""
    answers = []
    for file, one in zip(files, found, strict=True):
        if isinstance(one, InputError):
            one = {"file": shown(file.filename), "error": one}
        elif isinstance(one, BaseException):
            raise one
        answers.append(one)
    errors = [one["error"] for one in answers if "error" in one]
    if len(errors) == len(answers):
        raise _unusable(errors[0])
    return [
        Answer(**{**one, "error": str(one["error"])})
        if "error" in one
        else Answer(**one)
        for one in answers
    ]


def _unusable(error):
    return HTTPException(413 if isinstance(error, TooLong) else 422, str(error))


async def _while_connected(request, work):
    """Await work; cancel it if the client goes away."""
    work = asyncio.ensure_future(work)

    async def gone():
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaves = asyncio.create_task(gone())
    try:
        await asyncio.wait({work, leaves}, return_when="FIRST_COMPLETED")
        if not work.done():
            raise HTTPException(499, "the client went away")
        return work.result()
    finally:
        leaves.cancel()
        work.cancel()
