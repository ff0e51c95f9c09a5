"""Tiny models with real parts: random weights, real tokenizers, saved and loaded like any other."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.networks.folder import SLOTS, TextModel
from textdiff.networks.tokenization import AGAIN, NEXT, POEM_PREFIX, POEM_SPECIALS, character_tokenizer, naming

if TYPE_CHECKING:
    from diffusers import UNet2DModel

    from textdiff.networks.images import ImageModel

CHARACTERS = (
    "床前明月光疑是地上霜举头望低思故乡白日依山尽黄河入海流欲穷千里目更一层楼春眠不觉晓处闻啼鸟夜来风雨声花落知多少"
)
RHYMES = "长香方忧秋舟愁游"  # with those above, nine words to each of two rhymes
QUATRAIN = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"
PROCESSES = ("mask", "replacement", "redraw", "uniform", "ascending")
WORDS = ("the", "cat", "dog", "sat", "on", "under", "mat", "tree", "a", "two", "ran", "##s", "##ning", "##ed", ".")


def network(tokens: int, seed: int = 0) -> BertForMaskedLM:
    """A BERT of two thin layers, wide awake: its logits differ by whole nats."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tokens,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=80,
        initializer_range=0.4,
    )
    return BertForMaskedLM(config).eval()


def poem_model(more: str = "", **defaults: object) -> TextModel:
    """Knows the four forms, a few dozen characters and every process."""
    tokenizer = character_tokenizer(sorted(set(CHARACTERS + more)), POEM_SPECIALS)
    return TextModel.from_parts(
        network(len(tokenizer)),
        tokenizer,
        processes=PROCESSES,
        prefix=POEM_PREFIX,
        told=SLOTS,
        defaults=defaults,
        name="tiny-poems",
    )


def ordered_model(more: str = "", **defaults: object) -> TextModel:
    """A poem model that writes its holes from left to right and repeats what stands, as the packaged writer does."""
    tokens = (*POEM_SPECIALS, *naming(NEXT, 56), *naming(AGAIN, 56))
    tokenizer = character_tokenizer(sorted(set(CHARACTERS + more)), tokens)
    return TextModel.from_parts(
        network(len(tokenizer)),
        tokenizer,
        processes=("ascending", "mask"),
        prefix=POEM_PREFIX,
        told=SLOTS,
        defaults=defaults,
        name="tiny-ordered",
    )


def window_model() -> TextModel:
    """Characters of running text, no forms."""
    tokenizer = character_tokenizer("abcdefgh .\n")
    return TextModel.from_parts(network(len(tokenizer)), tokenizer, processes=PROCESSES, name="tiny-windows")


def word_pieces() -> PreTrainedTokenizerFast:
    """An uncased word-piece tokenizer with [CLS] and [SEP]."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordPiece({name: k for k, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def sentence_model() -> TextModel:
    """Any masked LM, as it comes: a folder without textdiff.json."""
    tokenizer = word_pieces()
    return TextModel.from_parts(network(len(tokenizer)), tokenizer, name="tiny-words")


def byte_model() -> TextModel:
    """Byte-level pieces whose mask token takes the space before it, like RoBERTa's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, "Ġt", "Ġc", "Ġs"]
    merges = [("Ġ", "t"), ("Ġ", "c"), ("Ġ", "s")]
    tokenizer = Tokenizer(models.BPE({name: k for k, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )
    return TextModel.from_parts(network(len(fast)), fast, name="tiny-bytes")


LETTERS = "abc"


def listed(*lengths: int, seed: int = 0) -> dict[str, float]:
    """Probabilities of all strings of each of these lengths; those of one length sum to 1."""
    result: dict[str, float] = {}
    for length in lengths:
        texts = ["".join(letters) for letters in itertools.product(LETTERS, repeat=length)]
        weight = Rng([seed + length]).uniform(len(texts))[0].square() + 1e-3
        result |= dict(zip(texts, (weight / weight.sum()).tolist(), strict=True))
    return result


@dataclass(frozen=True, eq=False)
class Oracle(TextModel):
    """A model whose network is a law that can be listed: of each masked letter, given the letters that stand."""

    law: dict[str, float] = field(default_factory=dict)
    lean: float = 0.0  # above 0 it is no law's: what it says of a position leans on where that is
    asked: list[int] = field(default_factory=list)  # rows of each forward

    def predictor(self, process: str) -> Any:
        letters = {letter: self.tokenizer.convert_tokens_to_ids(letter) for letter in LETTERS}
        rows = {length: [(text, p) for text, p in self.law.items() if len(text) == length] for length in range(9)}

        def predict(query: Query) -> Categorical:
            x_t = query.x_t
            at = positions_of(torch.ones_like(x_t, dtype=torch.bool)) if query.at is None else query.at
            known = rows[x_t.shape[1]]
            ids = torch.tensor([[letters[letter] for letter in text] for text, _ in known])
            weight = torch.tensor([p for _, p in known], dtype=torch.float64)
            fits = ((x_t[:, None] == ids) | (x_t[:, None] == self.mask_id)).all(-1) * weight  # (B, texts)
            size = self.model.get_input_embeddings().weight.shape[0]
            q = torch.zeros(len(at[0]), size, dtype=torch.float64)
            for k, (row, place) in enumerate(zip(*(part.tolist() for part in at), strict=True)):
                q[k].index_add_(0, ids[:, place], fits[row])
            lean = 1 + self.lean * torch.arange(1, size + 1) * (at[1] + 1)[:, None] / size
            self.asked.append(len(x_t))
            return Categorical.from_logits((q * lean).log(), x_t, at)

        return predict


def oracle(texts: dict[str, float], lean: float = 0.0) -> Oracle:
    return Oracle(**{**vars(window_model()), "processes": ("mask",), "name": "oracle"}, law=texts, lean=lean)


def unet() -> UNet2DModel:
    """A U-Net of two levels for gray images of 8 by 8."""
    from diffusers import UNet2DModel  # takes a second to import

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    ).eval()


def flow_model(network: UNet2DModel) -> ImageModel:
    """A rectified flow of images of 8 by 8 without labels."""
    from textdiff.networks.images import Diffusion, ImageModel

    diffusion = Diffusion(schedule="flow", output="velocity")
    return ImageModel(network, ("gaussian",), (1, 8, 8), (), None, diffusion)


def saved(model: TextModel, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)
