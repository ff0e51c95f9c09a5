"""Commands as nobody should type them: flags, records, templates, traces, images, recipes and model folders, drawn from a seed.

A case is a command line, what stands on stdin, and the files of the folder that it runs in.  `case(seed)` is a function of its seed
alone, so that a failure is repeated by its number.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import small_images
import yaml
from PIL import Image
from tiny import QUATRAIN, poem_model, saved, sentence_model, window_model

from textdiff import cli

ONELINE = QUATRAIN.replace("\n", "")
HOLED = ONELINE.replace("光", "_").replace("头", "□")

# Whatever a person, an editor or a program may put where a word is expected.
WORDS = [
    "", " ", "0", "-1", "1", "2", "3", "nan", "inf", "-inf", "1e999", "0.5", "1e-40", "x", "-", "--", "--json", "None",
    "true", "[]", "五绝", "qiyan-jueju", "couplet:5", "couplet:0", "lines:2x4", "lines:0x0", "lines:99999999999x1",
    "七阳", "平起", "唐", "ming", "明月", "春夏秋冬", "a.jsonl", "absent", "folder", ".", "..", "/", "/dev/null",
    "\u0000", "\udcff", "\ud800", "a\u0301", "👩‍👩‍👧", "\u202e", "ﷺ", "□", "_", "[MASK]", "[PAD]", "床前□□光", HOLED,
    ONELINE, QUATRAIN, "the _ sat", "床" * 300, "1" * 5000, "a=b", "eta=nan", "sweeps=0", "1:1", "1:1=平", "看=平",
    ":=:", "=", "mask", "replacement", "uniform", "improved", "edit", "gibbs", "strict", "off", "prefer:-1",
    "traditional", "draft", "1,2", "1,,x", "牀前□□光", "{}", "{\"text\": 1}",
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 1, 2, 1.5, -0.0, float("nan"), float("inf"), 10**30, "", "x", "五绝", "qiyan-jueju", "静夜思", "tang",
    "\ud800", "\x00", [], {}, [1], {"a": 1}, ["x"] * 3, "1", "null", "床前□□光", HOLED, QUATRAIN,
]  # fmt: skip
NUMBERS = ("-1", "0", "1", "2", "3", "", "x", "1.5", "nan", "1" * 5000)  # for what costs time in proportion
COSTLY = {
    "n", "length", "best_of", "particles", "rounds", "k", "patience", "variations", "tries", "levels", "repeats", "steps", "titles",
    "quality", "option", "delay", "batch", "layers", "width", "vocabulary",
}  # fmt: skip
MODELS = ("poems", "windows", "words")
PICTURES = ("digits", "blurred")


@dataclass
class Case:
    argv: list[str]
    stdin: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    folders: dict[str, tuple[str, str, bytes]] = field(
        default_factory=dict
    )  # name -> a model, one of its files, its content


class Home:
    """The models and the trace that cases start from; made once."""

    def __init__(self, folder: Path):
        self.folder = folder
        made = {"poems": poem_model(form="wuyan-jueju"), "windows": window_model(), "words": sentence_model()}
        self.models = {name: saved(model, folder / name) for name, model in made.items()}
        for name, model in (
            ("digits", small_images.model()),
            ("blurred", small_images.model(small_images.COLD, "cold")),
        ):
            model.save_pretrained(folder / name)
            self.models[name] = str(folder / name)
        self.traces = [self._trace("poems"), self._trace("digits")]
        self.verbs = verbs()

    def _trace(self, model: str) -> bytes:
        trace, out = self.folder / f"{model}.jsonl", str(self.folder / "out")
        argv = [
            "generate",
            "--model",
            self.models[model],
            "--steps",
            "3",
            "--trace",
            str(trace),
            "--out",
            out,
            "--quiet",
        ]
        assert cli.main(argv) == 0
        return trace.read_bytes()


def verbs() -> dict[str, list[argparse.Action]]:
    """The flags of every verb that a case may run."""
    (found,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    left_out = ("bench", "verify", "data", "recipes", "serve", "demo")  # the last two run until they are stopped
    return {name: parser._actions for name, parser in found.choices.items() if name not in left_out}


def case(seed: int, home: Home) -> Case:
    rng = random.Random(seed)
    kinds: list[tuple[int, Callable[[random.Random, Home], Case]]] = [
        (8, arguments), (8, records), (2, templates), (3, traces), (3, recipes), (3, folders), (3, sources), (1, comparisons),
        (2, images), (1, lists),
    ]  # fmt: skip
    (make,) = rng.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])
    return make(rng, home)


# -- kinds ----------------------------------------------------------------------------------------------------------------


def arguments(rng: random.Random, home: Home) -> Case:
    """A verb with flags of its own, and words where they take some."""
    verb = rng.choice(list(home.verbs))
    argv = [verb]
    for action in rng.sample(home.verbs[verb], min(rng.randint(0, 4), len(home.verbs[verb]))):
        if action.dest == "debug" or (action.dest in ("model", "help", "device") and rng.random() < 0.9):
            continue
        if action.option_strings:
            argv.append(rng.choice(action.option_strings))
        if action.nargs != 0:
            argv.append(rng.choice(NUMBERS) if action.dest in COSTLY else _word(rng))
    if verb in ("score", "fill", "refine", "check", "generate", "augment") and rng.random() < 0.5:
        argv += [_word(rng) for _ in range(rng.randint(0, 2))]
    argv = ["train", "--dry-run", *argv[1:]] if verb == "train" else argv
    return Case(_cheap(argv, rng, home), stdin=_text(rng), files={"a.jsonl": _text(rng)})


def records(rng: random.Random, home: Home) -> Case:
    """A verb of many texts over a file or stdin of any kind."""
    verb = rng.choice(["score", "check", "check", "fill", "refine", "evaluate", "choose", "restore", "augment"])
    argv, text = [verb], _text(rng)
    if verb == "choose":
        argv += rng.choice([[], ["--template", rng.choice(["{text}{x}", "{x", _line(rng) + "{x}"])]])
        argv += rng.choice([[], ["--slot", f"x={rng.choice(['月,日', 'a,b,a', '1..999999999', _word(rng)])}"]])
    argv += rng.choice(
        [[], ["--json"], ["--on-error", "skip"], ["--on-error", "skip", "--json", "--rejects", "rejects"]]
    )
    argv += rng.choice([[], [], ["--out", "out"]])
    argv += ["-"] if verb == "evaluate" else rng.choice([[], ["--file", "-"], ["--file", "a.jsonl"]])
    if verb == "evaluate" or "--out" in argv:
        argv = [word for word in argv if word != "-"] + (["a.jsonl"] if verb == "evaluate" else [])
    return Case(_cheap(argv, rng, home), stdin=text, files={"a.jsonl": text})


def templates(rng: random.Random, home: Home) -> Case:
    argv = [
        "generate",
        "--template",
        rng.choice(["a.txt", "-"]),
        *rng.choice([[], ["--form", _word(rng)], ["--trace", "t"]]),
    ]
    text = _text(rng) if rng.random() < 0.5 else _line(rng).encode(errors="surrogatepass")
    return Case(_cheap(argv, rng, home), stdin=text, files={"a.txt": text})


def traces(rng: random.Random, home: Home) -> Case:
    lines = [json.loads(line) for line in rng.choices(home.traces, (3, 1))[0].splitlines()]
    for _ in range(rng.randint(0, 2)):
        _mutate(rng, lines)
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    kind = rng.choice(["html", "svg", "html", "svg", "gif", "png", ""])
    flags = rng.choice([[], ["-n", rng.choice(NUMBERS)], ["--delay", rng.choice(["0", "-1", "nan", "x", "1e9"])]])
    return Case(["animate", "t.jsonl", "--out", f"film.{kind}", *flags], files={"t.jsonl": _spoilt(rng, data)})


RECIPE = {
    "data": {"train": "poems.txt", "holdout": 0.5},
    "model": {
        "type": "bert",
        "config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    },
    "processes": {"mask": 0.5, "replacement": 0.5},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "run": {"steps": 2, "batch": 2, "eval_every": 2, "eval_texts": 1, "previews": 1},
    "defaults": {"form": "wuyan-jueju", "sampler": "improved"},
}


def recipes(rng: random.Random, home: Home) -> Case:
    """A recipe with a wrong value, or a text that is no recipe; nothing is trained."""
    recipe: Any = copy.deepcopy(RECIPE)
    for _ in range(rng.randint(0, 2)):
        _mutate(rng, recipe[rng.choice(list(recipe))])
    recipe |= rng.choice([{}] * 9 + [{"x": rng.choice(VALUES)}])
    try:
        data = yaml.safe_dump(recipe, allow_unicode=True).encode(errors="surrogatepass")
    except yaml.YAMLError:
        data = repr(recipe).encode(errors="surrogatepass")
    data = rng.choice(
        [data] * 8 + [b"a: " * 3000, b"[" * 3000, b"- *a", b"!!python/object/apply:os.system [x]", b"a: 1\n---\nb: 2"]
    )
    argv = ["train", "r.yaml", "--dry-run", "--quiet"]
    if rng.random() < 0.3:
        argv.append(f"{rng.choice(['run.steps', 'data.train', 'model', 'x', 'optimizer.lr', ''])}={_word(rng)}")
    data = _spoilt(rng, data)
    if (
        b"hidden_size" not in data
    ):  # cut off or removed: the model would be as large as is usual, and a step of it takes long
        argv.append("model.config.hidden_size=16")
    return Case(argv, files={"r.yaml": data, "poems.txt": f"{ONELINE}\n{ONELINE[::-1]}\n".encode()})


def folders(rng: random.Random, home: Home) -> Case:
    """A model one of whose files is spoilt."""
    name = rng.choice([*MODELS, *PICTURES])
    path = rng.choice([p for p in Path(home.models[name]).iterdir() if p.is_file()])
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        about = json.loads(data)
        _mutate(rng, about)
        data = json.dumps(about).encode()
    else:
        data = rng.choice([b"", data[: rng.randrange(len(data))], b"{" * 3000, b"\xff" + data, b"null", b"[]"])
    scored = ["score", "--model", "m", "--levels", "1", "--repeats", "1", _line(rng)]
    drawn = ["generate", "--model", "m", "--steps", "1", "--out", "out"]
    return Case(drawn if name in PICTURES else scored, folders={"m": (name, path.name, data)})


def images(rng: random.Random, home: Home) -> Case:
    """A model of images, with flags of its own and flags of texts; files that may be pictures."""
    verb = rng.choice(["generate", "fill", "fill", "score", "refine", "evaluate"])
    argv = [verb, "--model", home.models[rng.choice(PICTURES)]]
    argv += [_source(rng) for _ in range(rng.randint(0, 2))] if verb == "fill" else []
    flags = {"--out": ["out", "out", "-"], "--level": NUMBERS, "--label": ["a", "b", "1", _word(rng)], "-n": NUMBERS}
    flags |= {"--mask": ["left", "centre", "a.png", _word(rng)], "--trace": ["t"], "--sampler": ["ddpm", _word(rng)]}
    flags |= {"--process": ["gaussian", "cold", _word(rng)], "--temperature": NUMBERS, "--guidance": NUMBERS}
    flags |= {"--option": ["eta=0.5", "last=simple", _word(rng)], "--form": [_word(rng)], "--analytic": [None]}
    for flag in rng.sample(list(flags), rng.randint(0, 3)):
        argv += [flag] if (value := rng.choice(flags[flag])) is None else [flag, value]
    argv += {"evaluate": ["--quick", "-n", "x"], "score": [_word(rng)]}.get(
        verb, ["--steps", rng.choice(["1", "2", "x"])]
    )
    picture = io.BytesIO()
    Image.new(rng.choice(["L", "RGB", "RGBA", "P", "1"]), rng.choice([(8, 8), (1, 30)]), 1).save(picture, "PNG")
    return Case(argv, stdin=_text(rng), files={"a.png": _spoilt(rng, picture.getvalue())})


def _source(rng: random.Random) -> str:
    return rng.choice(["a.png", "a.png", "digits:0", "digits:99999", "digits:-1", _word(rng)])


def lists(rng: random.Random, home: Home) -> Case:
    """Lists, pages of help, and words in the places of what is long; such a verb must end before its work begins."""
    verb = rng.choice(["recipes", "forms", "samplers", "help", "data", "bench", "verify", "train", "--version", ""])
    argv = [word for word in [verb] if word] + [_word(rng) for _ in range(rng.randint(0, 2))]
    if verb == "bench":
        argv = ["bench", "sample", "--steps", rng.choice(["x", "", "-1", "0"]), *argv[1:]]
    if verb == "verify":
        names = {"mask", "replacement", "uniform", "improved", "edit", "gibbs"}
        argv = [verb, rng.choice(["--process", "--sampler"]), *([w for w in argv[1:2] if w not in names] or ["x"])]
    return Case(argv + rng.choice([[], ["--json"], ["--help"], ["--quiet"]]))


def sources(rng: random.Random, home: Home) -> Case:
    """data prepare from something that may be a clone of chinese-poetry."""
    shares = rng.choice([[], ["--validation", rng.choice(["0", "1", "nan", "-1"])], ["--form", _word(rng)]])
    if rng.random() < 0.5:
        return Case(["data", "prepare", "a.txt", "made", *shares], files={"a.txt": _text(rng)})
    poems: Any = [{"paragraphs": [ONELINE[:12], ONELINE[12:]], "author": "x", "title": "y"} for _ in range(3)]
    _mutate(rng, poems)
    data = _spoilt(rng, json.dumps(poems).encode())
    return Case(["data", "prepare", "clone", "made", *shares], files={"clone/全唐诗/poet.tang.0.json": data})


def comparisons(rng: random.Random, home: Home) -> Case:
    argv = [
        "evaluate",
        "--samples",
        "a.jsonl",
        "--reference",
        "b.jsonl",
        *rng.choice([[], ["--json"], ["--limit", "2"]]),
    ]
    return Case(argv, files={"a.jsonl": _text(rng), "b.jsonl": _text(rng)})


# -- pieces ---------------------------------------------------------------------------------------------------------------


def _cheap(argv: list[str], rng: random.Random, home: Home) -> list[str]:
    """With a tiny model, and work that is done in a moment."""
    verb = argv[0]
    if verb not in ("generate", "fill", "refine", "augment", "score", "evaluate", "choose", "restore"):
        return argv
    argv = [*argv, "--model", home.models[rng.choices(MODELS, (6, 1, 1))[0]]] if "--model" not in argv else argv
    once = {
        "score": [("--levels", "1"), ("--repeats", "1")],
        "evaluate": [("--levels", "1")],
        "refine": [("--rounds", "1")],
        "augment": [("--levels", "1")],
        "choose": [],
        "restore": [("--width", "2")],
    }
    for flag, value in once.get(verb, [("--steps", "1")]):
        if flag not in argv and rng.random() < 0.95:
            argv += [flag, value]
    return argv


def _word(rng: random.Random) -> str:
    return rng.choice(WORDS)


def _line(rng: random.Random) -> str:
    return rng.choice([ONELINE, HOLED, "床前□□光", rng.choice(WORDS), rng.choice(WORDS) + rng.choice(WORDS)])


def _record(rng: random.Random) -> Any:
    record: dict[str, Any] = {"text": _line(rng)}
    for key in rng.sample(
        ["text", "form", "title", "dynasty", "seed", "id", "error", "input", "\ud800"], rng.randint(0, 3)
    ):
        record[key] = rng.choice(VALUES)
    return rng.choice([record] * 12 + [[record], None, 5, "x"])


def _text(rng: random.Random) -> bytes:
    """A file of texts, of some kind."""
    count = rng.randint(0, 5)
    lines = [json.dumps(_record(rng), ensure_ascii=rng.random() < 0.5) for _ in range(count)]
    kind = rng.random()
    if kind < 0.3:
        lines = [_line(rng) for _ in range(count)]
    elif kind < 0.4:
        lines = ["id,text", *(f"{k},{_line(rng)}" for k in range(count))]
    elif kind < 0.5:
        lines.insert(
            rng.randint(0, count), rng.choice(['{"a":' * 3000, "[" * 3000, '{"text"', "nonsense", "x" * 1_100_000])
        )
    text = rng.choice(["\n", "\n", "\n\n", "\r\n", "\r"]).join(lines) + rng.choice(["", "\n"])
    data = text.encode(
        rng.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"]), errors="surrogatepass"
    )
    return _spoilt(rng, gzip.compress(data, 1) if rng.random() < 0.1 else data)


def _spoilt(rng: random.Random, data: bytes) -> bytes:
    """The data, seldom cut, or with a byte that is another."""
    if not data or rng.random() < 0.8:
        return data
    at = rng.randrange(len(data))
    return rng.choice(
        [data[:at], data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :], b"PAR1" + data, b"\x1f\x8b" + data]
    )


def _mutate(rng: random.Random, value: Any) -> None:
    """Change, remove or add one thing somewhere in lists and objects."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(value[key], (dict, list)) and value[key] and rng.random() < 0.8:
            value = value[key]
            continue
        what = rng.random()
        if what < 0.7:
            value[key] = rng.choice(VALUES)
        elif what < 0.85:
            del value[key]
        elif isinstance(value, dict):
            value[rng.choice(["x", "", "text", "steps"])] = rng.choice(VALUES)
        else:
            value.insert(key, rng.choice(VALUES))
        return


def laid_out(one: Case, folder: Path, home: Home) -> None:
    """The files of a case, in its folder."""
    (folder / "folder").mkdir()
    for name, data in one.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    for name, (model, file, data) in one.folders.items():
        shutil.copytree(home.models[model], folder / name)
        (folder / name / file).write_bytes(data)
