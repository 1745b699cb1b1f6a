"""Models of transformers, as small as they come and random: no download."""

import torch
import transformers as tf

VOCABULARY, LABELS, LENGTH = 37, 7, 9
SIZE = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL = {**SIZE, "intermediate_size": 24, "max_position_embeddings": 32, "pad_token_id": 0}
SURE = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BERT = {**SMALL, **SURE, "num_labels": LABELS}
LLAMA = {**SMALL, "num_labels": LABELS, "num_key_value_heads": 1, "classifier_dropout": 0.0}
GPT2 = {
    **{"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "num_labels": LABELS},
    **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "pad_token_id": 0, "bos_token_id": 1},
    "eos_token_id": 2,
}
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
BART = {
    **{"vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "pad_token_id": 0},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
    **{"dropout": 0.0, "max_position_embeddings": 32, "num_labels": LABELS},
}

# name: how to make it, what its labels are (one for a sequence, for a position, those of a text), its shift
MODELS = {
    "bert sequence": (lambda: tf.BertForSequenceClassification(tf.BertConfig(**BERT)), "sequence", 0),
    "roberta sequence": (lambda: tf.RobertaForSequenceClassification(tf.RobertaConfig(**BERT)), "sequence", 0),
    "distilbert sequence": (
        lambda: tf.DistilBertForSequenceClassification(
            tf.DistilBertConfig(
                vocab_size=VOCABULARY,
                dim=16,
                n_layers=1,
                n_heads=2,
                hidden_dim=24,
                num_labels=LABELS,
                dropout=0.0,
                attention_dropout=0.0,
                seq_classif_dropout=0.0,
            )
        ),
        "sequence",
        0,
    ),
    "llama sequence": (lambda: tf.LlamaForSequenceClassification(tf.LlamaConfig(**LLAMA)), "sequence", 0),
    "gpt2 sequence": (lambda: tf.GPT2ForSequenceClassification(tf.GPT2Config(**GPT2)), "sequence", 0),
    "bert tokens": (lambda: tf.BertForTokenClassification(tf.BertConfig(**BERT)), "tokens", 0),
    "llama tokens": (lambda: tf.LlamaForTokenClassification(tf.LlamaConfig(**LLAMA)), "tokens", 0),
    "bert masked": (lambda: tf.BertForMaskedLM(tf.BertConfig(**BERT)), "masked", 0),
    "gpt2 causal": (lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2)), "causal", 1),
    "llama causal": (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA)), "causal", 1),
    "t5": (
        lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5, dropout_rate=0.0, decoder_start_token_id=0)),
        "text",
        0,
    ),
    "bart": (lambda: tf.BartForConditionalGeneration(tf.BartConfig(**BART)), "text", 0),
}


def model_of(name):
    """The model, from one seed."""
    torch.manual_seed(0)
    return MODELS[name][0]()


def rows_of(name, n=8, seed=1):
    """Examples as a Trainer takes them."""
    kind, random = MODELS[name][1], torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        ids = torch.randint(3, VOCABULARY, (LENGTH,), generator=random)
        if kind == "sequence":
            labels = torch.randint(LABELS, (), generator=random)
            ids[5 + int(torch.randint(4, (), generator=random)) :] = 0
        elif kind == "tokens":
            labels = torch.randint(LABELS, (LENGTH,), generator=random)
            labels[-2:] = -100
        elif kind == "masked":
            labels = torch.where(torch.rand(LENGTH, generator=random) < 0.3, ids, -100)
            labels[0] = ids[0]
        else:
            labels = ids.clone() if kind == "causal" else torch.randint(3, VOCABULARY, (6,), generator=random)
        row = {"input_ids": ids.tolist(), "labels": labels.tolist()}
        if kind == "sequence":
            row["attention_mask"] = (ids != 0).long().tolist()
        rows.append(row)
    return rows


def counted(name, rows, classes):
    """1 + how often each class occurs where it counts, [V]."""
    shift = MODELS[name][2]
    counts = torch.ones(classes, dtype=torch.int64)
    for row in rows:
        labels = torch.tensor(row["labels"]).reshape(-1)[shift:]
        counts += torch.bincount(labels[labels != -100], minlength=classes)
    return counts
