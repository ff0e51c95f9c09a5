"""Models among the tools of Hugging Face: the task "text-diffusion" draws as textdiff does, and a folder goes out with its card."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import QUATRAIN, poem_model, saved, sentence_model

import textdiff
from textdiff.core.errors import AskedError, ModelError
from textdiff.pipeline.hub.card import card
from textdiff.pipeline.text import TextPipeline

HOLED = QUATRAIN.replace("明月", "□□")
SENTENCE = "the [MASK] sat on the mat ."


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("models")
    return {
        "poems": saved(poem_model(form="wuyan-jueju"), home / "poems"),
        "words": saved(sentence_model(), home / "words"),
    }


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    textdiff.register_pipeline()
    textdiff.register_pipeline()


def task(folder: str, **more: Any) -> Any:
    return transformers.pipeline("text-diffusion", model=folder, device="cpu", **more)


def texts(found: list) -> list[str]:
    return [one["generated_text"] for one in found]


# -- the task -------------------------------------------------------------------------------------------------------------


def test_a_task_without_a_model_takes_the_packaged_one():
    (one,) = transformers.pipeline("text-diffusion", device="cpu")(HOLED, seed=3, steps=1)
    (expected,) = textdiff.load(precision="float32").fill(HOLED, seed=3, steps=1)
    assert one["generated_text"] == expected.text


def test_the_task_draws_what_textdiff_draws(folders):
    pipe, plain = task(folders["poems"]), textdiff.load(folders["poems"])
    one = pipe(HOLED, seed=3, temperature=0.8)
    (expected,) = plain.fill(HOLED, seed=3, temperature=0.8)
    assert one == [{"generated_text": expected.text} | {k: v for k, v in asdict(expected).items() if k != "text"}]
    assert texts(pipe(num_return_sequences=3, seed=1, steps=2)) == [
        o.text for o in plain.generate(n=3, seed=1, steps=2)
    ]
    assert texts(task(folders["words"], steps=1)(SENTENCE)) == [
        textdiff.load(folders["words"]).fill(SENTENCE, steps=1)[0].text
    ]


def test_lists_and_data_sets_have_a_list_of_texts_for_each_input(folders):
    pipe, plain = task(folders["poems"], steps=2), textdiff.load(folders["poems"])
    several = pipe.fill([HOLED, HOLED[1:] + "。", "床前□□光"][::2], n=2, seed=5)
    assert [texts(found) for found in several] == [
        [one.text for one in plain.fill([HOLED, "床前□□光"], n=2, seed=5, steps=2)[k : k + 2]] for k in (0, 2)
    ]
    assert [one["seed"] for found in several for one in found] == [5, 6, 7, 8]
    assert pipe([HOLED, "床前□□光"], num_return_sequences=2, seed=5, batch_size=1) == several
    lazy = pipe((one for one in (HOLED, "床前□□光")), num_return_sequences=2, seed=5)
    assert list(lazy) == several
    with_seeds = pipe([{"text": HOLED, "seed": 5}, {"text": "床前□□光", "seed": 7}], num_return_sequences=2)
    assert with_seeds == several and pipe([]) == []
    column = np.array([HOLED, "床前□□光"], dtype=object)
    assert pipe(column, num_return_sequences=2, seed=5) == several


def test_a_network_that_is_stored_in_less_is_read_in_float32_unless_a_type_is_named(folders, tmp_path):
    textdiff.load(folders["poems"]).model.save_pretrained(tmp_path / "small", torch.bfloat16)
    small = str(tmp_path / "small")
    assert task(small).model.dtype == torch.float32
    assert texts(task(small)(HOLED)) == [one.text for one in textdiff.load(small).fill(HOLED)]
    assert task(small, dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_a_network_and_a_tokenizer_that_are_there_can_be_passed(folders):
    model = transformers.AutoModelForMaskedLM.from_pretrained(folders["words"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["words"])
    pipe = transformers.pipeline("text-diffusion", model=model, tokenizer=tokenizer, device="cpu")
    assert pipe(SENTENCE) == task(folders["words"])(SENTENCE) and pipe.to("cpu") is pipe


def test_mistakes_are_refused_by_name(folders, tmp_path):
    pipe = task(folders["poems"])
    for call, says in (
        (lambda: pipe(HOLED, temprature=1), "did you mean 'temperature'"),
        (lambda: pipe(HOLED, num_return_sequences=0), "num_return_sequences is 0"),
        (lambda: pipe(5), "input is 5; pass a text with holes"),
        (lambda: pipe(QUATRAIN), "has no hole"),
        (lambda: pipe([HOLED], batch_size=0), "batch_size is 0"),
        (lambda: task(folders["poems"], stps=2), "did you mean 'steps'"),
    ):
        with pytest.raises(AskedError, match=re.escape(says)):
            call()
    headless = Path(saved(sentence_model(), tmp_path / "headless"))
    weights = {k: v.clone() for k, v in load_file(headless / "model.safetensors").items() if "transform" not in k}
    save_file(weights, headless / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 4 weights"):
        task(str(headless))
    (headless / "model.safetensors").rename(headless / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickles are not read"):
        task(str(headless))


def test_a_folder_that_brings_code_of_its_own_is_refused(folders, tmp_path):
    evil = Path(saved(sentence_model(), tmp_path / "evil"))
    config = json.loads((evil / "config.json").read_text(encoding="utf-8"))
    config["custom_pipelines"] = {"text-diffusion": {"impl": "evil.Evil", "pt": ["AutoModelForMaskedLM"]}}
    (evil / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (evil / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\nclass Evil: pass\n", encoding="utf-8")
    with pytest.raises(ValueError, match="trust_remote_code"):
        task(str(evil))
    assert not (tmp_path / "canary").exists()


# -- folders that go out --------------------------------------------------------------------------------------------------


def test_a_saved_folder_is_the_same_model_with_a_card_and_without_code(folders, tmp_path):
    pipe = task(folders["poems"])
    pipe.save_pretrained(tmp_path / "again")
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert {"README.md", "textdiff.json", "model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".py", ".bin", ".pt"))]
    assert "custom_pipelines" not in (tmp_path / "again" / "config.json").read_text(encoding="utf-8")
    assert texts(task(str(tmp_path / "again"))(HOLED, seed=2)) == texts(pipe(HOLED, seed=2))
    (tmp_path / "again" / "README.md").write_text("# mine\n", encoding="utf-8")
    textdiff.load(tmp_path / "again").save_pretrained(tmp_path / "more")
    assert (tmp_path / "more" / "README.md").read_text(encoding="utf-8") == "# mine\n", (
        "a model keeps the card it came with"
    )
    pipe.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text(encoding="utf-8") == "# mine\n"
    pipe.save_pretrained(tmp_path / "again", card="# new\n")
    assert (tmp_path / "again" / "README.md").read_text(encoding="utf-8") == "# new\n"


class FakeHub:
    """Takes the calls of `HfApi`, and remembers the files that were there."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, **more: Any) -> Any:
        self.calls.append(("create_repo", {"repo_id": repo_id, **more}))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, *, folder_path: Path, **more: Any) -> str:
        self.calls.append(("upload_folder", more))
        self.files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        return "the commit"


def test_a_push_makes_the_repository_and_uploads_the_folder_with_its_card(folders):
    hub, pipe = FakeHub(), task(folders["words"])
    assert pipe.push_to_hub("words", private=True, commit_message="first", api=hub) == "the commit"
    assert hub.calls == [
        ("create_repo", {"repo_id": "words", "exist_ok": True, "private": True}),
        ("upload_folder", {"repo_id": "me/words", "commit_message": "first"}),
    ]
    assert (
        hub.files["README.md"].decode().startswith("---\nlibrary_name: transformers\n")
        and "model.safetensors" in hub.files
    )
    textdiff.load().push_to_hub("poems", api=(packaged := FakeHub()))
    assert packaged.files["README.md"].decode().split("---\n")[2].startswith("# poems-zh"), "its own card goes with it"
    with pytest.raises(AskedError, match="takes no 'safe'; it takes private, token"):
        pipe.push_to_hub("words", api=hub, safe=True)


@pytest.mark.parametrize("name", ["poems", "words"])
def test_a_card_has_every_part_and_no_place_of_this_machine(folders, name):
    pipe = TextPipeline.from_pretrained(folders[name])
    text = card(pipe.model, data="A few poems.", figures={"nats_per_char": 4.5}, license="mit", language=["zh"])
    for title in ("Training data", "Training", "Processes", "Figures", "How to use it", "Limits"):
        assert f"\n## {title}\n\n" in text
    assert text.startswith("---\n") and "license: mit\nlanguage: [zh]\n" in text and f"\n# {name}\n" in text
    assert "A few poems." in text and "| nats_per_char | 4.5000 |" in text
    assert all(f"| `{process}` | " in text for process in pipe.model.processes)
    assert str(Path(folders[name]).parent) not in text
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        words = "the [MASK] sat" if name == "words" else HOLED
        exec(block.replace("FOLDER or owner/name", folders[name]).replace("… [MASK] …", words), {})
