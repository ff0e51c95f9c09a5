"""Small networks of every family and their folders."""

from __future__ import annotations

import pytest
import torch
from tiny import poem_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertTokenizer,
    DistilBertConfig,
    DistilBertTokenizer,
    MegatronBertConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaPreLayerNormConfig,
    RobertaTokenizer,
    RoFormerConfig,
)

from textdiff.networks.folder import TextModel

LINES = ["the cat sat on the mat", "床前明月光，疑是地上霜。", "a dog ran under two trees at the moon"] * 4


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}


PHANTOM = 5  # rows of the embedding without a token


def word_piece(kind):
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]")
    tokenizer = kind(vocab={name: k for k, name in enumerate(names)})
    return tokenizer.train_new_from_iterator(LINES, 120, show_progress=False)


def roberta_tokenizer():
    names = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizer = RobertaTokenizer(vocab={name: k for k, name in enumerate(names)}, merges=[])
    return tokenizer.train_new_from_iterator(LINES, 300, show_progress=False)


def modernbert_tokenizer():
    """Byte-level pieces first and [CLS], [SEP], [MASK] behind them, as that model has them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: k for k, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(["|||EMAIL|||", "    ", "[unused0]"])
    names = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    tokenizer.add_special_tokens(list(names.values()))
    frame = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{f"{k}_token": v for k, v in names.items()})


def bert_like(config, tokenizer, **sizes):
    ids = {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("pad", "bos", "eos", "cls", "sep")}
    return config(vocab_size=len(tokenizer) + PHANTOM, **ids, **(sizes or SIZES))


FAMILIES = {
    "bert": (lambda: word_piece(BertTokenizer), BertConfig, SIZES),
    "roberta": (roberta_tokenizer, RobertaConfig, SIZES),
    "distilbert": (
        lambda: word_piece(DistilBertTokenizer),
        DistilBertConfig,
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "initializer_range": 0.3},
    ),
    "modernbert": (modernbert_tokenizer, ModernBertConfig, {**SIZES, "local_attention": 4}),
    "roberta-prelayernorm": (roberta_tokenizer, RobertaPreLayerNormConfig, SIZES),
    "megatron-bert": (lambda: word_piece(BertTokenizer), MegatronBertConfig, SIZES),
    "roformer": (lambda: word_piece(BertTokenizer), RoFormerConfig, SIZES),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Plain Hugging Face folders, one for each family."""
    root = tmp_path_factory.mktemp("models")
    for name, (tokenizer, config, sizes) in FAMILIES.items():
        torch.manual_seed(0)
        tokens = tokenizer()
        AutoModelForMaskedLM.from_config(bert_like(config, tokens, **sizes)).save_pretrained(root / name)
        tokens.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def plain(folders):
    return {name: TextModel.from_pretrained(folders / name) for name in FAMILIES}


@pytest.fixture(scope="module")
def poems():
    return poem_model()


def assert_near(a, b, tolerance=1e-5):
    """Equal within `tolerance` where finite, and infinite together."""
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)
