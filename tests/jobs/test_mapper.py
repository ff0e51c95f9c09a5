"""Rows of a data set as jobs: what comes of a row is the same in any batch, in any process and on any engine."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from datasets import Dataset
from tiny import QUATRAIN, poem_model, saved

import textdiff
from textdiff import AskedError, Mapper, cli
from textdiff.networks.lean import choices
from textdiff.pipeline.jobs.verbs import seed_of

HOLED = QUATRAIN.replace("光", "□")
ROWS = {
    "id": [f"row {k}" for k in range(12)],
    "text": [HOLED, QUATRAIN.replace("地上", "__"), "床前□□光"] * 4,
    "temperature": [0.7, 1.0, 1.0, 1.0] * 3,
    "mine": list(range(12)),
}


@pytest.fixture(scope="module")
def poems(tmp_path_factory) -> str:
    return saved(poem_model(form="wuyan-jueju"), tmp_path_factory.mktemp("models") / "poems")


def of(rows: dict, *places: int) -> dict:
    return {name: [values[k] for k in places] for name, values in rows.items()}


def test_a_row_is_done_alike_in_any_batch_in_any_process_and_again(poems):
    mapper = Mapper("fill", poems, steps=2)
    whole = mapper(ROWS)
    assert set(whole) == {*ROWS, "filled", "seed"} and of(whole, 7, 2) == mapper(of(ROWS, 7, 2))
    assert pickle.loads(pickle.dumps(mapper))(of(ROWS, 5)) == of(whole, 5)
    data = Dataset.from_dict(ROWS)
    assert data.map(mapper, batched=True, batch_size=5).to_dict() == whole
    assert data.map(mapper, batched=True, batch_size=4, num_proc=2).to_dict() == whole
    pipe = textdiff.load(poems)
    alone = pipe.fill(ROWS["text"][4], seed=seed_of("row 4"), steps=2, temperature=0.7)[0]
    assert (whole["filled"][4], whole["seed"][4], whole["mine"]) == (alone.text, alone.seed, ROWS["mine"])


def test_arrays_are_rows_as_lists_are(poems):
    mapper = Mapper("fill", poems, steps=2)
    arrays = {name: np.array(values) for name, values in ROWS.items()}
    arrays["temperature"][1] = np.nan
    assert mapper(arrays)["filled"] == mapper(ROWS)["filled"], "where there is no number, the options say it"


def test_numbers_of_tables_are_taken_as_they_come(poems):
    rows = {"id": np.array([1, 2]), "text": [HOLED] * 2, "steps": [2.0, float("nan")], "seed": np.array([3.0, 4.0])}
    found = Mapper("fill", poems, steps=np.int64(2), temperature=np.float32(0.5), columns="filled")(rows)
    expected = textdiff.load(poems).fill(rows["text"], seed=3, steps=2, temperature=0.5)
    assert found["filled"] == [one.text for one in expected] and found["id"] == [1, 2]
    kept = np.array([["床", "明"]])
    varied = Mapper("augment", poems, levels=0, n=1)({"id": [1], "text": [QUATRAIN], "keep": list(kept)})
    assert varied["variants"][0][0] == "床" and "明" in varied["variants"][0]


def test_new_texts_come_from_the_model_that_the_command_takes(tmp_path):
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"id": "a"}\n')
    for name, options in (("poems-zh-writer", {}), ("poems-zh", {"sampler": "confidence"})):
        out, flags = tmp_path / name, [word for key, value in options.items() for word in (f"--{key}", value)]
        usual = ["--input", str(jobs), "--out", str(out), "--form", "wujue", "--steps", "2", "--quiet"]
        assert not cli.main(["generate", *usual, *flags])
        said = json.loads(out.read_text(encoding="utf-8"))
        mapper = Mapper("generate", form="wujue", steps=2, columns=["text", "model"], **options)
        assert mapper({"id": ["a"]}) == {"id": ["a"], "text": [said["text"]], "model": [said["model"]]}
        assert said["model"] == name


def test_every_verb_adds_its_columns(poems):
    rows = {"id": [1, 2], "text": [QUATRAIN, QUATRAIN]}
    pipe = textdiff.load(poems)
    scored = Mapper("score", poems, levels=2)(rows)
    assert scored["nats_per_char"] == [one.nats_per_char for one in pipe.score(rows["text"], levels=2)]
    assert (
        Mapper("refine", poems, rounds=1)(rows)["after"][0] == pipe.refine(QUATRAIN, seed=seed_of(1), rounds=1)[0].after
    )
    several = Mapper("generate", poems, n=2, steps=1, columns=["text", "form"])({"id": [1, 2]})
    assert several["text"][1] == [one.text for one in pipe.generate(n=2, seed=seed_of(2), steps=1)]
    assert several["form"] == [["wuyan-jueju"] * 2] * 2
    numbered = Mapper("fill", poems, steps=1)({"text": [HOLED] * 2}, [5, 6])
    assert numbered["seed"] == [seed_of(5), seed_of(6)]


def test_a_wrong_row_is_named_or_has_its_error_in_a_column(poems):
    rows = {"id": ["a", "b"], "text": [QUATRAIN, HOLED]}
    with pytest.raises(AskedError, match=r"row 'a': text .* has no hole"):
        Mapper("fill", poems, steps=1)(rows)
    found = Mapper("fill", poems, steps=1, on_error="skip")(rows)
    assert found["filled"][0] is None and "has no hole" in found["error"][0] and found["error"][1] == ""
    for call, says in (
        (lambda: Mapper("fil"), "did you mean 'fill'"),
        (lambda: Mapper("fill", step=1), "did you mean 'steps'"),
        (lambda: Mapper("fill", steps="many"), "steps is 'many'; expected"),
        (lambda: Mapper("fill", on_error="go"), "must be stop or skip"),
        (lambda: Mapper("fill", poems, columns=["lins"])(of(rows, 1)), "did you mean 'lines'"),
        (lambda: Mapper("fill", poems)({"text": [HOLED]}), "no column 'id'"),
        (lambda: Mapper("fill", poems)({"id": [0.5], "text": [HOLED]}), "id is 0.5"),
        (
            lambda: Mapper("fill", poems)({"id": 1, "text": HOLED}),
            "column 'id' is 1, and not a list of rows; map with batched=True",
        ),
        (lambda: Mapper("fill", poems)({"text": HOLED}, 1), "column 'text' is '.*', and not a list of rows"),
        (
            lambda: Mapper("fill", poems)({"id": [1, 2], "text": [HOLED]}),
            "column 'text' has 1 rows, and column 'id' has 2",
        ),
        (lambda: Mapper("fill", poems)({"text": [HOLED]}, [1, 2]), "2 ids for 1 rows"),
    ):
        with pytest.raises(AskedError, match=says):
            call()


def test_the_processes_that_a_mapper_goes_to_round_as_the_one_that_made_it(poems, monkeypatch):
    mapper = Mapper("generate", poems, steps=1)
    sent = pickle.dumps(mapper)
    monkeypatch.setattr(choices, "_made", {name: not way for name, way in mapper.computing.items()})
    pickle.loads(sent)({"id": [1]})
    assert choices._made == mapper.computing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_workers_of_ray_do_what_one_process_does(poems, monkeypatch):
    ray = pytest.importorskip("ray")
    for name, value in {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    import ray.data as ray_data

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        rows = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]
        done = ray_data.from_items(rows).map_batches(
            Mapper, fn_constructor_args=["fill", poems], fn_constructor_kwargs={"steps": 2}, concurrency=2, batch_size=3
        )
        found = {row["id"]: row["filled"] for row in done.take_all()}
    finally:
        ray.shutdown()
    whole = Mapper("fill", poems, steps=2)(ROWS)
    assert found == dict(zip(whole["id"], whole["filled"], strict=True))


def test_rows_are_chosen_for_and_restored_as_single_texts_are(poems):
    pipe = textdiff.load(poems)
    texts, slots = [QUATRAIN.replace("明", "{x}"), QUATRAIN.replace("光", "{x}"), "床{x"], {"x": ["明", "白"]}
    found = Mapper("choose", poems, slots=slots, on_error="skip")({"id": [1, 2, 3], "text": texts})
    alone = [pipe.choose(text, slots)[0] for text in texts[:2]]
    assert found["labels"] == [alone[0].labels, alone[1].labels, None] and "for a brace" in found["error"][2]
    assert found["probability"][:2] == [one.probability for one in alone]
    found = Mapper("restore", poems, width=4, top=2)({"id": [1], "text": [HOLED]})
    (whole,) = pipe.restore(HOLED, width=4, top=2)
    assert (found["restored"], found["probability"]) == ([whole.text], [whole.probability])
