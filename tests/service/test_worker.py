"""The thread that works: what nobody waits for is not computed, and nothing else is lost by it."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Callable
from typing import Any

import pytest
from tiny import poem_model

from textdiff.core.errors import AskedError
from textdiff.pipeline.jobs.verbs import VERBS, prepared
from textdiff.pipeline.page import longest
from textdiff.pipeline.run import BATCH
from textdiff.pipeline.service.limits import Limits, texts_of
from textdiff.pipeline.service.worker import Full, Stopped, Ticket, Worker
from textdiff.pipeline.text import TextPipeline

POEMS = poem_model(form="wuyan-jueju")


@pytest.fixture(scope="module")
def pipe() -> TextPipeline:
    return TextPipeline.of(POEMS)


def ticket(pipe: TextPipeline, job: dict[str, Any], deliver: Callable[[Any], object], verb: str = "generate") -> Ticket:
    shared, whole = prepared(VERBS[verb], {"id": 0} | job, {})
    return Ticket(VERBS[verb], shared, whole, texts_of(pipe, VERBS[verb], shared, whole), deliver)


def test_a_request_that_nobody_waits_for_is_not_begun(pipe):
    worker, found = Worker(pipe, Limits(window=0)), queue.Queue()
    one, other = (ticket(pipe, {"seed": seed, "steps": 1}, found.put) for seed in (1, 2))
    for each in (one, other):
        worker.put(each)
    one.gone = True
    worker.start()
    assert found.get(timeout=20).seed == 2
    worker.stop()
    assert found.empty()


@pytest.mark.parametrize("others", [0, 1])
def test_work_that_nobody_waits_for_ends_at_once_and_that_of_others_does_not(pipe, others):
    worker, found, steps = Worker(pipe, Limits(window=0)), queue.Queue(), list[int]()
    one, other = (ticket(pipe, {"seed": seed, "n": n}, found.put) for seed, n in ((1, 2), (2, 1)))

    def leave(frame: Any) -> None:
        steps.append(frame.forwards[0])
        one.gone = frame.forwards[0] >= 3

    one.show = leave
    for each in (one, other)[: 1 + others]:
        worker.put(each)
    worker.start()
    came = [found.get(timeout=20) for _ in range(1 + others)]
    assert isinstance(came[0], Stopped) and steps == [0, 1, 2, 3], "the rows of one who left take no further step"
    if others:
        assert came[1] == pipe.generate(seed=2)[0]
    worker.stop()


@pytest.mark.parametrize(("verb", "job"), [("score", {}), ("refine", {"rounds": 4})])
def test_every_verb_ends_where_nobody_waits(pipe, verb, job):
    worker, found = Worker(pipe, Limits(window=0)), queue.Queue()
    one = ticket(pipe, {"text": pipe.generate(seed=1)[0].text} | job, found.put, verb)
    worker.count = lambda *_: setattr(one, "gone", True)  # it is begun
    worker.put(one)
    worker.start()
    assert isinstance(found.get(timeout=20), Stopped)
    worker.stop()


@pytest.mark.parametrize("strange", [{3}, {1, 4}, set(range(6))])
def test_a_fault_in_one_request_is_its_own_and_the_others_of_its_batch_are_answered(pipe, strange):
    verb, log, begun = VERBS["generate"], list[str](), list[int]()

    def faulty(pipe: TextPipeline, jobs: Any, options: Any, watch: Any) -> Any:
        begun.append(len(jobs))
        for k, result in verb.work(pipe, jobs, options, watch):
            if jobs[k]["seed"] in strange:
                raise KeyError(jobs[k]["seed"])
            yield k, result

    worker, found = Worker(pipe, Limits(window=0), log=log.append), {}
    for seed in range(6):
        one = ticket(pipe, {"seed": seed, "steps": 1}, lambda result, seed=seed: found.setdefault(seed, result))
        worker.put(dataclasses.replace(one, verb=dataclasses.replace(verb, work=faulty)))
    worker.start()
    worker.stop(at_once=False)
    assert begun[0] == 6, "they are of one batch"
    assert {seed for seed, result in found.items() if isinstance(result, KeyError)} == strange
    assert sorted(log) == [f"KeyError: {seed}" for seed in sorted(strange)]
    for seed in set(range(6)) - strange:
        assert found[seed] == pipe.generate(seed=seed, steps=1)[0]


def test_where_memory_fails_all_that_were_not_answered_hear_of_it_and_the_next_is_answered(pipe):
    verb, failures = VERBS["generate"], [MemoryError("no more")]

    def short(pipe: TextPipeline, jobs: Any, options: Any, watch: Any) -> Any:
        for k, result in verb.work(pipe, jobs, options, watch):
            if k == 1 and failures:
                raise failures.pop()
            yield k, result

    worker, found = Worker(pipe, Limits(window=0)), list[Any]()
    for steps in (1, 1, 1, 2):
        one = ticket(pipe, {"seed": len(found), "steps": steps}, found.append)
        worker.put(dataclasses.replace(one, verb=dataclasses.replace(verb, work=short)))
    worker.start()
    worker.stop(at_once=False)
    assert [isinstance(one, MemoryError) for one in found] == [False, True, True, False]


def test_those_who_left_make_room(pipe):
    worker = Worker(pipe, Limits(queue=1))
    one = ticket(pipe, {}, print)
    worker.put(one)
    with pytest.raises(Full, match="1 requests are waiting already; ask again in 1 s"):
        worker.put(ticket(pipe, {}, print))
    one.gone = True
    worker.put(ticket(pipe, {}, print))
    assert worker.waiting == 1


def test_a_stop_finishes_what_waits_or_says_that_it_does_not(pipe):
    for at_once in (False, True):
        worker, found = Worker(pipe, Limits(window=3600)), queue.Queue()
        for seed in range(3):
            worker.put(ticket(pipe, {"seed": seed, "steps": 1}, found.put))
        worker.start()
        worker.stop(at_once)
        came = [found.get(timeout=20) for _ in range(3)]
        assert [isinstance(one, Stopped) for one in came] == [at_once] * 3
        with pytest.raises(Stopped):
            worker.put(ticket(pipe, {}, found.put))


def test_a_batch_has_the_oldest_request_and_as_many_of_its_kind_as_fit(pipe):
    sizes: list[tuple[str, int]] = []
    worker, found = Worker(pipe, Limits(window=0), lambda verb, texts: sizes.append((verb, texts))), queue.Queue()
    for n, steps in ((BATCH - 1, 1), (1, 2), (2, 1), (1, 1), (1, 2)):
        worker.put(ticket(pipe, {"n": n, "steps": steps, "form": "couplet:5"}, found.put))
    worker.start()
    for _ in range(5):
        assert not isinstance(found.get(timeout=20), Exception)
    worker.stop()
    assert sizes == [("generate", BATCH), ("generate", 2), ("generate", 2)]


@pytest.mark.parametrize("job", [{"particles": 4096, "prosody": "strict"}, {"best_of": 4096}, {"quality": "best"}])
def test_candidates_and_particles_count_as_texts(pipe, job):
    shared, whole = prepared(VERBS["generate"], {"id": 0, "n": 2} | job, {})
    assert texts_of(pipe, VERBS["generate"], shared, whole) == 2 * job.get("particles", job.get("best_of", 8))


COSTLY = [
    (
        {"sampler": "gibbs", "sampler_options": {"sweeps": 0}, "steps": 10**9},
        1,
    ),  # steps beyond the positions cost nothing
    ({"sampler": "gibbs", "sampler_options": {"sweeps": 2.5}, "n": 2}, 8),
    ({"process": "embedding", "steps": 64}, 1),
    ({"process": "embedding", "steps": 10**9}, 15_625_000),
    ({"process": "uniform", "steps": 10**9}, -(-(10**9) // longest(POEMS))),
]


@pytest.mark.parametrize(("job", "texts"), COSTLY)
def test_sweeps_and_steps_beyond_the_positions_count_as_texts_where_they_are_made(job, texts):
    pipe = TextPipeline.of(dataclasses.replace(POEMS, processes=("mask", "embedding", "uniform")))
    shared, whole = prepared(VERBS["generate"], {"id": 0} | job, {})
    assert texts_of(pipe, VERBS["generate"], shared, whole) == texts


@pytest.mark.parametrize("verb", ["score", "choose", "restore"])
def test_the_orders_of_a_likelihood_count_as_texts(pipe, verb):
    shared, whole = prepared(VERBS[verb], {"id": 0, "text": "床前明月光", "order": "random:99"}, {})
    assert texts_of(pipe, VERBS[verb], shared, whole) == 99


def test_a_wrong_option_is_said_before_a_request_waits(pipe):
    shared, whole = prepared(VERBS["generate"], {"id": 0, "top_p": 3}, {})
    with pytest.raises(AskedError, match="top_p is 3"):
        texts_of(pipe, VERBS["generate"], shared, whole)
