"""Requests over HTTP: each is a job, and its answer depends on it alone; what cannot be is refused with its reason."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import QUATRAIN, RHYMES, poem_model

from textdiff.core.errors import AskedError
from textdiff.networks.folder import TextModel
from textdiff.pipeline.jobs.lines import joined
from textdiff.pipeline.jobs.verbs import VERBS, results
from textdiff.pipeline.run import BATCH
from textdiff.pipeline.text import TextPipeline

pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
testclient = pytest.importorskip("starlette.testclient")

from textdiff.pipeline.service.app import application  # noqa: E402
from textdiff.pipeline.service.limits import Limits  # noqa: E402

HOLED = QUATRAIN.replace("光", "_")
LONG = 3600.0  # seconds that no test waits
JOBS: list[tuple[str, dict[str, Any]]] = [
    ("generate", {"id": "a", "steps": 2}),
    ("generate", {"id": "b", "steps": 2, "n": 3, "tag": [1, {"x": None}]}),
    ("generate", {"id": "c", "steps": 1, "form": "七绝", "acrostic": "春夏秋冬"}),
    ("generate", {"id": "d", "steps": 2, "seed": 5, "title": "静夜思"}),
    ("generate", {"id": "e", "steps": 2, "prosody": "strict", "best_of": 2}),
    ("generate", {"id": "f", "acrostic": "春"}),
    ("fill", {"id": 1, "text": HOLED, "steps": 1, "n": 2, "tag": "mine"}),
    ("fill", {"id": 2, "text": HOLED, "steps": 1, "temperature": 1.5, "form": "五绝"}),
    ("fill", {"id": 3, "text": QUATRAIN}),
    ("refine", {"id": 4, "text": QUATRAIN, "rounds": 1, "k": 2}),
    ("augment", {"id": 8, "text": QUATRAIN, "n": 2, "tries": 1, "keep": ["明月"], "levels": 2}),
    ("score", {"id": 5, "text": QUATRAIN, "levels": 2, "repeats": 1, "detail": True}),
    ("choose", {"id": 6, "text": HOLED.replace("_", "{x}"), "slots": {"x": ["明", "白"]}, "order": "left"}),
    ("restore", {"id": 7, "text": HOLED, "top": 2, "width": 2}),
]


@pytest.fixture(scope="module")
def pipe() -> TextPipeline:
    return TextPipeline.of(poem_model("夏秋冬" + RHYMES, form="wuyan-jueju"))


@contextmanager
def service(pipe: TextPipeline, log: list[str] | None = None, **limits: Any) -> Iterator[Any]:
    app = application(pipe, Limits(**limits), ([] if log is None else log).append)
    with testclient.TestClient(app, raise_server_exceptions=False) as client:
        yield client


def counted(client: Any, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def until(there: Any) -> None:
    end = time.monotonic() + 30
    while not there():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_an_answer_is_the_line_of_the_job_whatever_is_asked_beside_it(pipe):
    asked = JOBS * 2
    with service(pipe, queue=len(asked)) as client, ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda one: client.post(f"/{one[0]}", json=one[1]), asked))
    for (verb, job), answer in zip(asked, answers, strict=True):
        ((_, alone),) = results(pipe, VERBS[verb], [job], {})
        wrong = isinstance(alone, AskedError)
        assert answer.status_code == (422 if wrong else 200), answer.text
        assert answer.json() == json.loads(joined({"error": str(alone)} if wrong else alone, job))


def test_requests_of_one_kind_are_worked_on_together(pipe):
    half = {"n": BATCH // 2, "steps": 1}
    with service(pipe, window=LONG) as client, ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda seed: client.post("/generate", json=half | {"seed": seed}), (0, 1))
        assert (
            counted(client, "textdiff_batch_texts_count") == 1 and counted(client, "textdiff_batch_texts_sum") == BATCH
        )
    texts = [[one["text"] for one in answer.json()["results"]] for answer in (first, second)]
    assert texts[1][:-1] == texts[0][1:], "text k of seed s is that of seed s + k"


def test_a_request_without_id_and_seed_has_both_by_chance(pipe):
    with service(pipe, window=0) as client:
        one, other = (client.post("/generate", json={"steps": 1}).json() for _ in range(2))
        again = client.post("/generate", json={"steps": 1, "id": one["id"]}).json()
    assert one["id"] != other["id"] and one["seed"] != other["seed"] and again == one


def events(text: str) -> list[tuple[str, Any]]:
    found = [part.split("\n") for part in text.split("\n\n") if part.startswith("event: ")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in found]


def test_a_stream_shows_what_is_written_and_ends_with_the_answer(pipe):
    job = {"id": 1, "n": 2, "seed": 3, "form": "五绝"}
    with service(pipe, window=0) as client:
        stream = client.post("/generate", json=job, headers={"Accept": "text/event-stream"})
        whole = client.post("/generate", json=job).json()
        late = client.post("/fill", json={"text": QUATRAIN}, headers={"Accept": "text/event-stream"})
        until(lambda: counted(client, 'textdiff_requests_total{status="422",verb="fill"}') == 1)
    assert stream.headers["content-type"].startswith("text/event-stream")
    *frames, (last, result) = events(stream.text)
    assert (last, result) == ("result", whole) and {name for name, _ in frames} == {"frame"}
    texts = [one["text"] for one in whole["results"]]
    assert frames[-1][1]["texts"] == texts and frames[-1][1]["rows"] == [0, 1] and frames[-1][1]["level"] == 0
    for _, frame in frames:
        assert all(
            one in ("□", other)
            for a, b in zip(frame["texts"], texts, strict=True)
            for one, other in zip(a, b, strict=True)
        )
    ((name, wrong),) = events(late.text)
    assert name == "error" and "has no hole" in wrong["error"]


def test_those_who_look_on_see_their_own_texts_alone(pipe):
    job = {"steps": 2, "best_of": 2, "n": 2, "form": "couplet:5"}
    stream = {"Accept": "text/event-stream"}
    with service(pipe, window=LONG, texts=BATCH) as client, ThreadPoolExecutor(2) as pool:
        several = [pool.submit(client.post, "/generate", json=job | {"seed": k}, headers=stream) for k in (0, 9)]
        filled = client.post("/generate", json=job | {"n": (BATCH - 8) // 2})
        streams = [events(one.result().text) for one in several]
    assert filled.status_code == 200
    for stream in streams:
        assert [frame["rows"] for name, frame in stream if name == "frame"][-1] == [0, 1, 2, 3]
        last = [frame["texts"] for name, frame in stream if name == "frame"][-1]
        assert {one["text"] for one in stream[-1][1]["results"]} <= set(last)


DEEP = '{"a":' * 3000 + "1" + "}" * 3000
JSON = {"Content-Type": "application/json"}
SWEPT = {"sampler": "gibbs", "form": "五绝"}
REFUSED: dict[str, tuple[int, str, str, dict[str, Any]]] = {
    "what is no JSON": (422, "fill", "is not JSON", {"content": "{", "headers": JSON}),
    "what is no object": (422, "fill", "is no JSON object", {"content": "[1]", "headers": JSON}),
    "what is no UTF-8": (422, "fill", "is no UTF-8", {"content": b'{"text": "\xff"}', "headers": JSON}),
    "half a character": (422, "fill", "surrogates", {"content": '{"text": "\\ud800"}', "headers": JSON}),
    "a deep object": (422, "fill", "nested too deeply", {"content": DEEP, "headers": JSON}),
    "no number": (422, "generate", "no number of JSON", {"content": '{"temperature": NaN}', "headers": JSON}),
    "infinity": (422, "generate", "is larger than any number", {"content": '{"mine": [1e999]}', "headers": JSON}),
    "no text": (422, "fill", "job has no text", {"json": {}}),
    "an id that is none": (422, "fill", "has as id [1]; expected text", {"json": {"id": [1], "text": HOLED}}),
    "a value of another kind": (422, "fill", "steps is 'x'; expected", {"json": {"text": HOLED, "steps": "x"}}),
    "a form that is none": (422, "generate", "unknown form 'haiku'", {"json": {"form": "haiku"}}),
    "a sampler that is none": (422, "generate", "unknown sampler", {"json": {"sampler": "x"}}),
    "too many texts": (422, "generate", "asks for 65 texts", {"json": {"n": 65}}),
    "too many candidates": (422, "generate", "asks for 66 texts", {"json": {"n": 33, "best_of": 2}}),
    "too many rounds": (422, "refine", "asks for 65 texts", {"json": {"text": QUATRAIN, "rounds": 65}}),
    "too many repeats": (422, "score", "asks for 999 texts", {"json": {"text": QUATRAIN, "repeats": 999}}),
    "too many sweeps": (422, "generate", "asks for 1001 texts", {"json": SWEPT | {"sampler_options": {"sweeps": 1e3}}}),
    "sweeps beyond all": (
        422,
        "generate",
        "sweeps is 1e+300",
        {"json": SWEPT | {"sampler_options": {"sweeps": 1e300}}},
    ),
    "too many orders": (422, "score", "asks for 99 texts", {"json": {"text": QUATRAIN, "order": "random:99"}}),
    "an expression of another kind": (
        422,
        "augment",
        "keep_pattern is '(a+)+$', and at character 6 $ stands for an end",
        {"json": {"text": QUATRAIN, "keep_pattern": "(a+)+$"}},
    ),
    "too many variants": (422, "augment", "asks for 128 texts", {"json": {"text": QUATRAIN, "n": 64, "tries": 2}}),
    "a file of the service's": (422, "score", "expected one of left", {"json": {"text": QUATRAIN, "order": __file__}}),
    "too large a number": (422, "generate", "a number up to", {"json": {"temperature": 10**400}}),
    "too many steps": (422, "generate", "a whole number up to 2147483647, or 'each'", {"json": {"steps": 10**12}}),
    "too large a beam": (422, "restore", "a whole number from 1 to", {"json": {"text": HOLED, "width": 10**9}}),
    "too large a body": (413, "fill", "more than 65536 bytes", {"json": {"text": "床" * 65536}}),
    "another kind of body": (415, "fill", "application/json", {"data": {"text": HOLED}}),
    "another verb": (404, "train", "there are POST /generate", {"json": {}}),
}


@pytest.fixture(scope="module")
def client(pipe) -> Iterator[Any]:
    with service(pipe, window=0) as client:
        yield client


@pytest.mark.parametrize("what", REFUSED)
def test_a_request_that_cannot_be_is_refused_with_its_reason(client, what):
    status, verb, says, request = REFUSED[what]
    answer = client.post(f"/{verb}", **request)
    assert answer.status_code == status and says in answer.json()["error"], answer.text
    assert answer.headers["content-type"] == "application/json"
    if "json" in request and status == 422 and "id" not in request["json"]:
        assert request["json"].items() <= answer.json().items(), "the keys of the job come back"


def test_a_door_takes_a_job_alone(client):
    answer = client.get("/fill")
    assert answer.status_code == 405 and "POST /fill" in answer.json()["error"]


def test_a_byte_order_mark_before_a_job_is_passed_over(client):
    job = {"text": HOLED, "seed": 1, "id": 1}
    marked = client.post("/fill", content=b"\xef\xbb\xbf" + json.dumps(job).encode(), headers=JSON)
    assert marked.status_code == 200 and marked.json() == client.post("/fill", json=job).json()


def test_where_too_many_wait_the_next_is_to_come_again(pipe):
    with service(pipe, window=LONG, queue=1) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/generate", json={})
        until(lambda: client.get("/health").json()["waiting"] == 1)
        assert counted(client, "textdiff_waiting") == 1
        second = client.post("/generate", json={"id": 7})
        assert second.status_code == 429 and 1 <= int(second.headers["Retry-After"]) <= 60
        assert second.json()["id"] == 7 and "1 requests are waiting already" in second.json()["error"]
        client.app.state.worker.stop()
        assert first.result().status_code == 503 and "the service stops" in first.result().json()["error"]
        third = client.post("/generate", json={"id": 8})
        assert third.status_code == 503 and client.get("/health").status_code == 503


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_a_request_that_takes_too_long_is_given_up_and_leaves_its_place(pipe, accept):
    with service(pipe, window=LONG, seconds=0.05, queue=1) as client:
        answers = [client.post("/generate", json={}, headers={"Accept": accept}) for _ in range(2)]
    for answer in answers:
        if accept == "*/*":
            assert answer.status_code == 504 and "not done within 0.05 s" in answer.json()["error"]
        else:
            ((name, said),) = events(answer.text)
            assert name == "error" and "not done within 0.05 s" in said["error"]


def test_a_fault_of_the_model_is_said_and_does_not_end_the_service():
    model: TextModel = poem_model()
    broken = TextPipeline.of(model)
    log: list[str] = []
    with service(broken, log, window=0) as client:
        with torch.no_grad():
            model.model.get_input_embeddings().weight.fill_(float("nan"))
        answers = [client.post("/generate", json={"form": "五绝", "steps": 1, "id": k}) for k in range(2)]
        assert client.get("/health").json()["status"] == "ok"
    assert [answer.status_code for answer in answers] == [500, 500] and len(log) == 2
    assert answers[1].json()["error"] == log[1] and "tiny-poems" in log[1] and answers[1].json()["id"] == 1


def test_health_says_the_model(client):
    said = client.get("/health").json()
    assert (said["status"], said["model"], said["waiting"]) == ("ok", "tiny-poems", 0)


@pytest.mark.parametrize("wrong", [{"window": -1.0}, {"seconds": 0.0}, {"queue": 0}, {"texts": 0}, {"body": 0}])
def test_limits_with_which_nothing_could_be_done_are_refused(wrong):
    with pytest.raises(AskedError, match=r"must be"):
        Limits(**wrong)


def test_the_thread_ends_with_the_service(pipe):
    names = lambda: [thread.name for thread in threading.enumerate()]  # noqa: E731
    before = names().count("textdiff worker")
    with service(pipe):
        assert names().count("textdiff worker") == before + 1
    assert names().count("textdiff worker") == before


def test_a_caller_who_leaves_before_a_stream_begins_leaves_its_place(pipe):
    app = application(pipe, Limits(window=LONG, queue=1))
    scope = {
        "type": "http",
        "asgi": {"spec_version": "2.3"},
        "method": "POST",
        "path": "/generate",
        "query_string": b"",
    }
    headers = [(b"content-type", b"application/json"), (b"accept", b"text/event-stream")]
    statuses: list[int] = []

    async def left() -> None:
        messages = [{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            return messages.pop(0) if len(messages) > 1 else messages[0]

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 200))
            await asyncio.sleep(0)

        await app(scope | {"headers": headers}, receive, send)

    for _ in range(3):
        asyncio.run(left())
    assert set(statuses) == {200} and app.state.worker.waiting == 1
