"""A sentence encoder of random weights, made in a second and read from a folder like a real one."""

from collections.abc import Sequence
from pathlib import Path

import torch


def make_encoder(folder: Path, words: Sequence[str]) -> Path:
    """Save a BERT of one layer that knows ``words`` and gives 8 numbers a text; the same bytes each time."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    source = folder.parent / f"{folder.name}-body"
    source.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (source / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **sizes)).save_pretrained(source)
    BertTokenizer(str(source / "vocab.txt")).save_pretrained(source)
    body = Transformer(str(source), max_seq_length=32)
    SentenceTransformer(modules=[body, Pooling(8)], device="cpu").save(str(folder))
    return folder
