"""The page for people: one clip, many files, and what the model is."""

import asyncio
import csv
import html
import os
from pathlib import Path
from uuid import uuid4

import gradio as gr

from ser_peft.errors import InputError
from ser_peft.report.rendering import render
from ser_peft.storage.cells import as_cell

__all__ = ["STYLE", "make_page"]

KEPT = 300
"""Seconds that the page's player can ask for an upload again."""
STYLE = {
    "theme": gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ),
    "footer_links": [],
    "run_history": False,
}
"""Arguments of `gradio.mount_gradio_app` and `Blocks.launch`: fonts that are
there, nothing from elsewhere."""


def make_page(service):
    """Gradio page of a service.

    Arguments
    ---------
    service : ser_peft.service.serving.Service
        Service, whose folder the page's uploads are in too.

    Returns
    -------
    gradio.Blocks
    """
    os.environ["GRADIO_TEMP_DIR"] = str(service.folder)
    limits, about = service.limits, service.about
    title = f"Speech emotion recognition: {about.name}"
    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=(60, KEPT)
    ) as blocks:
        gr.Markdown(
            f"# {title}\nUp to {limits.max_seconds:g} s and "
            f"{limits.max_mb:g} MB. Recordings are deleted within "
            f"{KEPT // 60 + 1} minutes.",
            container=False,
        )
        with gr.Tab("Clip"):
            _clip_tab(service)
        with gr.Tab("Timeline"):
            _timeline_tab(service)
        with gr.Tab("Files"):
            _files_tab(service)
        with gr.Tab("About"):
            gr.Markdown(about.card, container=True)
    return blocks.queue(
        max_size=limits.max_requests, default_concurrency_limit=None
    )


def _clip_tab(service):
    with gr.Row():
        clip = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Recording",
            buttons=[],
            editable=False,
        )
        _take_uploads_only(clip, service)
        with gr.Column():
            label = gr.Label(
                label="Emotion", visible=bool(service.model.classes)
            )
            note = gr.Markdown(visible=False)
            dimensions = gr.Dataframe(
                headers=["dimension", "value"],
                label="Dimensions",
                visible=bool(service.model.dimensions),
                interactive=False,
            )

    async def listen(path):
        if path is None:
            return None, gr.update(visible=False), None
        answer = await _answer(service, path)
        if "error" in answer:
            raise _refused(answer["error"])
        unsure = "**Unsure**: no class is likely enough to be relied on."
        return (
            answer.get("scores"),
            gr.update(value=unsure, visible=answer.get("unsure", False)),
            [
                [name, round(value, 2)]
                for name, value in answer.get("dimensions", {}).items()
            ],
        )

    clip.change(
        listen, clip, [label, note, dimensions], api_visibility="private"
    )


def _timeline_tab(service):
    clip = gr.File(
        type="filepath", label="Recording", height=120, elem_id="long"
    )
    _take_uploads_only(clip, service)
    frame = gr.HTML()
    with gr.Row():
        page = gr.DownloadButton("Download this page", visible=False)
        table = gr.DownloadButton("Download as CSV", visible=False)

    async def follow(path):
        if path is None:
            return None, gr.update(visible=False), gr.update(visible=False)
        try:
            found, text = await service.timeline(
                path, Path(path).name, page=True
            )
        except InputError as error:
            raise _refused(str(error)) from error
        out = service.folder / uuid4().hex
        out.mkdir()
        (out / "timeline.html").write_text(text, encoding="utf-8")
        found.write(out / "timeline.csv")
        return (
            render("frame", {}, page=text),
            gr.update(value=str(out / "timeline.html"), visible=True),
            gr.update(value=str(out / "timeline.csv"), visible=True),
        )

    clip.change(follow, clip, [frame, page, table], api_visibility="private")


def _files_tab(service):
    files = gr.File(
        file_count="multiple", type="filepath", label="Recordings", height=160
    )
    _take_uploads_only(files, service)
    ask = gr.Button("Name the emotions", variant="primary")
    columns = _columns(service.model)
    table = gr.Dataframe(
        headers=columns, label="Answers", interactive=False, wrap=True
    )
    download = gr.DownloadButton("Download as CSV", visible=False)

    async def listen(paths, progress=gr.Progress()):  # noqa: B008, Gradio's way
        if not paths:
            raise _refused("Choose recordings first.")
        done = 0

        async def one(path):
            nonlocal done
            answer = await _answer(service, path)
            Path(path).unlink(missing_ok=True)
            done += 1
            progress((done, len(paths)), unit="files")
            return _row(answer, columns)

        rows = await asyncio.gather(*map(one, paths))
        out = service.folder / uuid4().hex / "emotions.csv"
        out.parent.mkdir()
        with open(out, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for row in [columns, *rows]:
                writer.writerow(
                    as_cell(cell) if isinstance(cell, str) else cell
                    for cell in row
                )
        return rows, gr.update(value=str(out), visible=True), None

    ask.click(listen, files, [table, download, files], api_visibility="private")


def _take_uploads_only(component, service):
    """Let no client name a file of the server, or an address to fetch."""

    async def take(path):
        found = Path(path).resolve()
        if service.folder.resolve() not in found.parents:
            raise _refused("This was not uploaded.")
        return str(found)

    component.async_move_resource_to_block_cache = take


def _refused(message):
    return gr.Error(
        html.escape(message),
        duration=None,
        print_exception=False,
    )


async def _answer(service, path):
    """Answer of an upload, or its error."""
    name = Path(path).name
    try:
        return await service.answer(path, name)
    except InputError as error:
        return {"file": name, "error": str(error)}


def _columns(model):
    return [
        "file",
        "seconds",
        *(["label", *model.classes] if model.classes else []),
        *model.dimensions,
        *(["unsure"] if model.unsure else []),
        "problem",
    ]


def _row(answer, columns):
    values = {
        "problem": answer.pop("error", ""),
        **answer.pop("scores", {}),
        **answer.pop("dimensions", {}),
        **answer,
    }
    return [
        round(value, 4) if isinstance(value, float) else value
        for value in (values.get(key, "") for key in columns)
    ]
