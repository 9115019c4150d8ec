"""Addresses for programs."""

import asyncio
import io
import json
import threading

import httpx
import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from ser_peft.errors import InputError
from ser_peft.service import About, Limits, Service, application


def sent(*paths):
    """Files as a form has them."""
    return [("files", (path.name, path.read_bytes())) for path in paths]


def wav(wave, rate=16000):
    """Content of a file."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV")
    return file.getvalue()


def refused(response, code, *words):
    """The one line of a refusal."""
    assert response.status_code == code, response.text
    assert [*response.json()] == ["error"]
    line = response.json()["error"]
    assert line and "\n" not in line and "Traceback" not in line
    assert "/tmp" not in line and "site-packages" not in line
    for word in words:
        assert word in line
    return line


def test_answers_are_those_of_predict(client, model, clips):
    response = client.post("/v1/predict", files=sent(*clips))
    found = response.json()
    assert response.status_code == 200 and found["model"] == "tiny ä"
    assert [one["file"] for one in found["answers"]] == [
        path.name for path in clips
    ]
    for path, one, expected in zip(
        clips, found["answers"], model.predict(clips), strict=True
    ):
        assert one["label"] == expected["label"]
        assert one["seconds"] == pytest.approx(
            soundfile.info(path).duration, abs=1e-3
        )
        for key in ("scores", "uncalibrated", "dimensions"):
            assert one[key] == pytest.approx(expected[key], 1e-5, 1e-4)


class Loud:
    """A detector to which everything is speech."""

    def __init__(self):
        self.samples = 0

    def __call__(self, wav):
        before, self.samples = self.samples, self.samples + len(wav)
        return np.ones(self.samples // 512 - before // 512, np.float32)

    def close(self):
        return np.ones(int(self.samples % 512 > 0), np.float32)


def test_timeline_is_that_of_the_model(client, model, clips, monkeypatch):
    monkeypatch.setattr("ser_peft.inference.streams.SpeechDetector", Loud)
    speech = clips[-1]
    file = {"file": (speech.name, speech.read_bytes())}
    form = {"window": "0.5", "hop": "0.25"}
    response = client.post("/v1/timeline", files=file, data=form)
    assert response.status_code == 200, response.text
    found, expected = response.json(), model.timeline(speech, 0.5, 0.25)
    assert (found["file"], found["window"], found["hop"]) == (
        speech.name, 0.5, 0.25,
    )  # fmt: skip
    assert found["seconds"] == pytest.approx(expected.seconds)
    assert len(found["segments"]) == len(expected.segments) > 0
    for one, other in zip(found["segments"], expected.segments, strict=True):
        assert (one["start"], one["end"]) == (other.start, other.end)
        assert one["label"] == other.label
        for key in ("scores", "dimensions"):
            assert one[key] == pytest.approx(getattr(other, key), 1e-5, 1e-4)


@pytest.mark.parametrize(
    ("content", "form", "code", "words"),
    [
        (b"no audio", {}, 422, "a.wav: cannot be read as audio"),
        (wav(np.full(33000, 0.5)), {}, 413, "longer than 2 s"),
        (wav(np.full(9000, 0.5)), {"hop": 0.001}, 422, "hop: "),
        (wav(np.full(9000, 0.5)), {"hop": 9}, 422, "hop 9.0: "),
        (wav(np.full(9000, 0.5)), {"window": "x"}, 422, "window: "),
    ],
)
def test_a_timeline_that_cannot_be(client, content, form, code, words):
    file = {"file": ("a.wav", content)}
    response = client.post("/v1/timeline", files=file, data=form)
    refused(response, code, words)


def test_what_cannot_be_used_is_named_beside_the_others(client, clips):
    files = [
        *sent(clips[0]),
        ("files", ("notes.txt", b"no audio")),
        ("files", ("quiet.wav", wav(np.zeros(8000)))),
    ]
    good, text, silent = client.post("/v1/predict", files=files).json()[
        "answers"
    ]
    assert "label" in good and "error" not in good
    assert "label" not in text and text["file"] == "notes.txt"
    assert text["error"].startswith("notes.txt: cannot be read as audio")
    assert silent["error"].startswith("quiet.wav: silent")


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("a.wav", b"", 422, "an empty file"),
        ("a.wav", b"no audio", 422, "cannot be read as audio"),
        ("a.wav", b"RIFF\x24\0\0\0WAVEfmt garbage", 422, "cannot be read"),
        ("a.wav", b"version https://git-lfs.github.com/spec/v1\n", 422, "LFS"),
        ("a.zip", b"PK\3\4" + bytes(99), 422, "an archive"),
        ("a.wav", wav(np.zeros(8000)), 422, "silent"),
        ("a.wav", wav(np.full(99, 0.5)), 422, "too short"),
        ("a.wav", wav(np.full(33000, 0.5)), 413, "longer than 2 s"),
        ("../../etc/passwd", b"x", 422, "passwd: cannot be read"),
        ("a\x1b[31m\n.wav", b"x", 422, "cannot be read"),
        ("n" * 2000, b"x", 422, "…: cannot be read"),
    ],
)
def test_one_that_cannot_be_used_is_refused(client, name, content, code, words):
    files = {"files": (name, content)}
    line = refused(client.post("/v1/predict", files=files), code, words)
    assert len(line) < 600 and "\x1b" not in line
    assert not [p for p in client.service.folder.iterdir() if p.is_file()]


def test_a_bomb_is_not_decoded_whole(client, monkeypatch):
    """Hours of silence are a few kilobytes of flac."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16000 * 600), 16000, format="FLAC")
    decoded = []
    read = soundfile.SoundFile.read

    def counted(self, *args, **options):
        block = read(self, *args, **options)
        decoded.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    files = {"files": ("a.flac", file.getvalue())}
    refused(client.post("/v1/predict", files=files), 413, "longer than 2 s")
    assert sum(decoded) < 16000 * 60


def test_no_form_no_files_no_path(client, tmp_path):
    post = client.post
    refused(post("/v1/predict"), 422, "files: field required")
    refused(post("/v1/predict", json={"files": ["/etc/passwd"]}), 422, "files")
    refused(post("/v1/predict", data={"files": "/etc/passwd"}), 422, "files")
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(post("/v1/predict", content=b"--y\r\n", headers=kind), 400)
    refused(client.get("/v1/predict"), 404)
    assert client.get("/v1/../../etc/passwd").status_code == 404
    texts = {"files": ("a.wav", wav(np.ones(8000) / 2))}
    refused(
        post("/v1/predict", files=texts, data={"texts": ["a", "b"]}),
        422, "texts: 2 for 1 files",
    )  # fmt: skip


def test_health_and_description(client):
    found = client.get("/healthz").json()
    assert found["ready"] and found["model"] == "tiny ä" and found["version"]
    assert found["classes"] == ["neutral", "angry", "sad", "happy"]
    assert found["dimensions"] == ["arousal"]
    about = client.get("/openapi.json").json()
    answers = about["paths"]["/v1/predict"]["post"]["responses"]
    assert answers["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Answers"
    }
    assert {"401", "413", "422", "503"} < {*answers}
    assert "tmp" not in json.dumps(about)


def test_a_bug_tells_nothing(client, model, clips, monkeypatch):
    def broken(*_):
        raise KeyError("/secret/place")

    monkeypatch.setattr(model, "score", broken, raising=False)
    line = refused(client.post("/v1/predict", files=sent(clips[0])), 500)
    assert "secret" not in line
    monkeypatch.undo()
    assert client.post("/v1/predict", files=sent(clips[0])).status_code == 200


def test_damaged_scores_are_an_error(client, model, clips, monkeypatch):
    monkeypatch.setattr(
        model, "score", lambda *_: np.full((1, 5), np.nan), False
    )
    refused(client.post("/v1/predict", files=sent(clips[0])), 500)


def test_too_many_requests_are_told_to_come_back(serving, clips, monkeypatch):
    client = serving(max_requests=1)
    model = client.service.model
    begun, go_on = threading.Event(), threading.Event()
    answer = model.judged

    def slow(*args, **options):
        begun.set()
        go_on.wait(10)
        return answer(*args, **options)

    monkeypatch.setattr(model, "judged", slow, raising=False)
    codes = []

    def first():
        response = client.post("/v1/predict", files=sent(clips[0]))
        codes.append(response.status_code)

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(10)
    second = client.post("/v1/predict", files=sent(clips[1]))
    assert client.get("/healthz").status_code == 200
    go_on.set()
    thread.join()
    refused(second, 503, "come back")
    assert second.headers["retry-after"] == "1"
    assert codes == [200]


def test_uploads_are_removed(model, run, clips):
    service, kept = Service(model, About.of(run)), []
    read = service._read

    def look(path, name):
        kept.append(path)
        assert path.parent == service.folder and path.exists()
        return read(path, name)

    service._read = look
    app = application(service)
    with TestClient(app, base_url="http://localhost:80") as client:
        client.post("/v1/predict", files=sent(*clips))
        assert len(kept) == len(clips)
        assert not any(path.exists() for path in kept)
    assert not service.folder.exists()


def test_limits_are_above_nothing():
    with pytest.raises(InputError, match="--max-seconds 0"):
        Limits(max_seconds=0)


def test_work_for_a_client_that_left_is_dropped(serving, clips, monkeypatch):
    client = serving()
    model = client.service.model
    begun, go_on, judged = threading.Event(), threading.Event(), []
    judge = model.judged

    def slow(items, *args):
        judged.extend(name for name, *_ in items)
        begun.set()
        go_on.wait(10)
        return judge(items, *args)

    monkeypatch.setattr(model, "judged", slow, raising=False)
    request = httpx.Request(
        "POST", "http://localhost/v1/predict", files=sent(clips[1])
    )
    messages = [{"type": "http.request", "body": request.read()}]

    async def receive():
        if messages:
            return messages.pop()
        await asyncio.sleep(0.2)  # its clip waits for the model by now
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    scope = {
        "type": "http", "method": "POST", "path": "/v1/predict",
        "raw_path": b"/v1/predict", "query_string": b"", "root_path": "",
        "scheme": "http", "http_version": "1.1",
        "headers": [(k.lower(), v) for k, v in request.headers.raw],
    }  # fmt: skip
    first = threading.Thread(
        target=client.post, args=["/v1/predict"],
        kwargs={"files": sent(clips[0])},
    )  # fmt: skip
    first.start()
    assert begun.wait(10)
    client.portal.call(client.app, scope, receive, send)
    go_on.set()
    first.join()
    client.post("/v1/predict", files=sent(clips[2]))
    assert judged == [clips[0].name, clips[2].name]
    assert not [p for p in client.service.folder.iterdir() if p.is_file()]
