"""Sequence classifiers of transformers under Trainer, with the write: stopped half way and resumed, nothing is lost.

The classes are modules of Python's standard library, the examples the functions in them. A small BERT and a small
Llama (random, no download) learn them; the counts show that every example was written once an epoch.
"""

import ast
import re
import sysconfig
import tempfile
import zlib
from pathlib import Path

import torch
import transformers

from firstsight.huggingface import FirstSight  # firstsight

WORDS, LENGTH, LEAST, EPOCHS = 4096, 32, 60, 6
SIZE = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
QUIET = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no", "save_strategy": "epoch"}


def functions():
    """A row for each function of the modules that have enough of them: its words, hashed, and its module."""
    modules = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if not {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.parts):
            lines, tree = path.read_bytes().splitlines(), ast.walk(ast.parse(path.read_bytes()))
            found = [x for x in tree if isinstance(x, ast.FunctionDef) and x.end_lineno - x.lineno > 5]
            texts = [re.findall(rb"[A-Za-z]{2,}", b" ".join(lines[x.lineno - 1 : x.end_lineno])) for x in found]
            modules += [texts] if len(found) >= LEAST else []
    ids = [[[2 + zlib.crc32(word.lower()) % (WORDS - 2) for word in text] for text in texts] for texts in modules]
    return [{"input_ids": [1, *text][:LENGTH], "labels": i} for i, texts in enumerate(ids) for text in texts]


def padded(rows):
    ids = torch.stack([torch.tensor(row["input_ids"] + [0] * (LENGTH - len(row["input_ids"]))) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([r["labels"] for r in rows])}


def train(config, rows, folder, **resume):
    transformers.set_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    told = transformers.TrainingArguments(
        folder, num_train_epochs=EPOCHS, learning_rate=2e-3, per_device_train_batch_size=32, **QUIET
    )
    callback = FirstSight(counts="new")  # firstsight
    trainer = transformers.Trainer(model, told, padded, rows, callbacks=[callback])  # firstsight
    trainer.train(**resume)
    return model, callback.handle.head


def main():
    rows = functions()
    classes = 1 + rows[-1]["labels"]
    test, known = rows[::5], [row for i, row in enumerate(rows) if i % 5]
    counts = 1 + EPOCHS * torch.bincount(torch.tensor([row["labels"] for row in known]), minlength=classes)
    for kind in (transformers.BertConfig, transformers.LlamaConfig):
        config = kind(vocab_size=WORDS, num_labels=classes, max_position_embeddings=LENGTH, pad_token_id=0, **SIZE)
        with tempfile.TemporaryDirectory() as folder:
            model, head = train(config, known, folder)
            saved = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
            resumed, _ = train(config, known, folder, resume_from_checkpoint=str(saved[EPOCHS // 2]))
        with torch.no_grad():
            asked = padded(test)
            right = model.eval()(**asked).logits.argmax(1) == asked["labels"]
        written, share = int(head.counts.sum()) - classes, float(right.float().mean())
        print(f"{config.model_type}: {written} examples written, each once an epoch; {share:.1%} right of {classes}")
        assert torch.equal(head.counts, counts)
        assert share > 3 / classes
        ours, theirs = model.state_dict(), resumed.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), "resumed, to the bit"


if __name__ == "__main__":
    main()
