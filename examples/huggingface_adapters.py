"""LoRA of peft with the write: the output layer is trained beside the adapter, and its counts survive a reload.

A small Llama (random, no download) that names the last letter of a word, in an adapter; saved, loaded, trained on.
"""

import tempfile

import peft
import safetensors.torch
import torch
import transformers

import firstsight  # firstsight

LETTERS, LENGTH = 26, 6
SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def base():
    transformers.set_seed(0)
    config = transformers.LlamaConfig(vocab_size=LETTERS + 1, num_labels=LETTERS, pad_token_id=0, **SIZE)
    return transformers.LlamaForSequenceClassification(config)


def train(model, counts, steps, first=0):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    handle = firstsight.attach(model, optimizer, counts=counts)  # firstsight
    for step in range(first, first + steps):
        words = torch.randint(1, LETTERS + 1, (32, LENGTH), generator=torch.Generator().manual_seed(step))
        loss = model(input_ids=words, labels=words[:, -1] - 1).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return handle.head.counts, loss.item()


def main():
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["score"])
    model = peft.get_peft_model(base(), lora)
    before, loss = train(model, "new", 60)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = peft.PeftModel.from_pretrained(base(), folder, is_trainable=True)
        saved = safetensors.torch.load_file(f"{folder}/adapter_model.safetensors")  # firstsight
    after, lower = train(again, saved, 60, first=60)  # firstsight
    print(f"{int(before.sum()) - LETTERS} examples before the reload, {int(after.sum()) - LETTERS} after it")
    print(f"loss {loss:.2f} -> {lower:.2f}")
    assert int(after.sum()) - LETTERS == 2 * 60 * 32
    assert lower < loss


if __name__ == "__main__":
    main()
