"""A service in a process of its own: asked by many at once, left by some of them, and stopped."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commands import Command, begin

from textdiff.pipeline.text import TextPipeline

pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")


def ask(address: tuple[str, int], way: str, job: dict[str, Any] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("GET" if job is None else "POST", way, job and json.dumps(job), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def begun(address: tuple[str, int], job: dict[str, Any]) -> socket.socket:
    """A stream of which the first frame has come."""
    body = json.dumps(job).encode()
    stream = socket.create_connection(address, timeout=60)
    stream.sendall(
        b"POST /generate HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n"
        b"Connection: close\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )
    seen = b""
    while b"event: frame" not in seen:
        piece = stream.recv(4096)
        assert piece, seen
        seen += piece
    return stream


def waits_for(address: tuple[str, int], said: str, command: Command) -> None:
    command.wait_for(lambda: said in ask(address, "/metrics")[1])
    assert command.process.is_alive()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_service_answers_what_was_asked_before(start, poems, number):
    command, address = start()
    pipe = TextPipeline.from_pretrained(poems)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: ask(address, "/generate", {"seed": seed, "steps": 2}), range(24)))
    assert [json.loads(text)["text"] for _, text in answers] == [one.text for one in pipe.generate(n=24, steps=2)]

    stream = begun(address, {"seed": 3, "sampler": "gibbs", "sampler_options": {"sweeps": 4}})
    command.send(number)
    rest = b""
    while piece := stream.recv(1 << 16):
        rest += piece
    stream.close()
    assert b"event: result" in rest
    code, out, err = command.ended()
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert (code, out) == (128 + number, "")
    assert err.splitlines()[1:] == [f"textdiff: {word}; what was asked for before was answered"]


def test_what_a_caller_asked_for_who_has_left_is_not_computed_further(start):
    command, address = start("--queue", 1, "--timeout", 600, "--texts", 10**7)
    endless = {"steps": 1, "sampler": "gibbs", "sampler_options": {"sweeps": 1e6}}
    begun(address, endless).close()
    waits_for(address, 'textdiff_requests_total{status="499",verb="generate"} 1.0', command)
    assert ask(address, "/generate", {"steps": 1})[0] == 200, "the thread is free again"

    plain = http.client.HTTPConnection(*address, timeout=60)
    plain.request("POST", "/generate", json.dumps(endless), {"Content-Type": "application/json"})
    waits_for(address, 'textdiff_batch_texts_count{verb="generate"} 3.0', command)
    plain.close()
    waits_for(address, 'textdiff_requests_total{status="499",verb="generate"} 2.0', command)
    assert ask(address, "/generate", {"steps": 1})[0] == 200


@pytest.mark.slow
def test_one_who_leaves_a_batch_changes_no_answer_of_the_others(start, poems):
    command, address = start("--window", 500)
    job = {"sampler": "gibbs", "sampler_options": {"sweeps": 4.0}}
    with ThreadPoolExecutor(3) as pool:
        leaves = pool.submit(begun, address, {"seed": 1} | job)
        others = [pool.submit(ask, address, "/generate", {"seed": seed} | job) for seed in (2, 3)]
        leaves.result().close()
        found = [json.loads(one.result()[1]) for one in others]
    waits_for(address, 'textdiff_requests_total{status="499",verb="generate"} 1.0', command)
    assert 'textdiff_batch_texts_count{verb="generate"} 1.0' in ask(address, "/metrics")[1], "they were one batch"
    alone = TextPipeline.from_pretrained(poems).generate(n=2, seed=2, **job)
    assert [(one["text"], one["forwards"]) for one in found] == [(one.text, one.forwards) for one in alone]


def test_an_address_that_is_taken_is_said(tmp_path, poems):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = begin(tmp_path, "serve", "--model", poems, "--port", port).ended()
    assert code == 2 and f"cannot listen at 127.0.0.1, port {port}" in err and "0 for one that is free" in err


def test_a_port_that_is_none_is_said(tmp_path: Path, poems):
    code, _, err = begin(tmp_path, "serve", "--model", poems, "--port", 70000).ended()
    assert code == 2 and "port is 70000; it must be a number from 0 to 65535" in err
