"""Where the Trainer takes the labels away, as it does for label smoothing or a loss of your own, hand them over.

Three kinds of models (random, no download): masked, causal and encoder-decoder language models on the words of a page
of Python's manual; the counts show that each word was written where it counts.
"""

import re
import tempfile
from pydoc_data.topics import topics

import torch
import transformers

from firstsight.huggingface import FirstSight  # firstsight

LENGTH = 8
SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
QUIET = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no"}


class Trainer(transformers.Trainer):
    def compute_loss(self, model, inputs, *args, **options):
        callback.labels(inputs["labels"])  # firstsight
        return super().compute_loss(model, inputs, *args, **options)


def models(vocabulary):
    yield transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=vocabulary, **SIZE))
    yield transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=vocabulary, **SIZE))
    small = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    yield transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=vocabulary, **small))


def rows_for(model, text):
    for start in range(0, len(text) - LENGTH, LENGTH):
        ids = text[start : start + LENGTH]
        row = {"input_ids": ids, "labels": ids}
        if "Masked" in type(model).__name__:
            row["labels"] = [word if i % 4 == 0 else -100 for i, word in enumerate(ids)]
        if model.config.is_encoder_decoder:
            row["decoder_input_ids"] = [0, *ids[:-1]]
        yield row


def main():
    global callback
    words = re.findall(r"[a-z]+", topics["naming"].lower())
    vocabulary = sorted(set(words))
    text = [vocabulary.index(word) for word in words]
    for model in models(len(vocabulary)):
        transformers.set_seed(0)
        rows = list(rows_for(model, text))
        callback = FirstSight(counts="new")  # firstsight
        with tempfile.TemporaryDirectory() as folder:
            told = transformers.TrainingArguments(folder, num_train_epochs=2, label_smoothing_factor=0.1, **QUIET)
            trainer = Trainer(model, told, train_dataset=rows, callbacks=[callback])  # firstsight
            trainer.train()
        first = 1 if "Causal" in type(model).__name__ else 0
        counted = torch.tensor([word for row in rows for word in row["labels"][first:] if word != -100])
        counts = callback.handle.head.counts
        print(f"{type(model).__name__}: {int(counts.sum()) - len(vocabulary)} words written, {len(counted)} an epoch")
        assert torch.equal(counts, 1 + 2 * torch.bincount(counted, minlength=len(vocabulary)))


if __name__ == "__main__":
    main()
