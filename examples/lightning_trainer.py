"""The write under Lightning's Trainer: attached in ``configure_optimizers``, counts in the checkpoint.

The module is trained for two epochs, saved, and restored for two more: the counts go on from where they were.
"""

import tempfile
import warnings
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from firstsight import HebbianSoftmax  # firstsight

CLASSES, WIDTH = 50, 16


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(WIDTH, 32), torch.nn.Tanh())
        self.head = HebbianSoftmax(32, CLASSES)  # firstsight

    def training_step(self, batch, _):
        x, y = batch
        return self.head.loss(self.body(x), y)  # firstsight

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        self.head.attach(optimizer)  # firstsight
        return optimizer


def trainer(epochs, folder):
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def main():
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    lightning.seed_everything(0, verbose=False)
    centres = 3 * torch.randn(CLASSES, WIDTH)
    labels = torch.randint(CLASSES, (640,))
    batches = DataLoader(TensorDataset(centres[labels] + torch.randn(640, WIDTH), labels), batch_size=32)
    seen = torch.bincount(labels, minlength=CLASSES)

    with tempfile.TemporaryDirectory() as folder:
        first, model = trainer(2, folder), Classifier()
        first.fit(model, batches)
        assert torch.equal(model.head.counts, 1 + 2 * seen)
        checkpoint = Path(folder) / "two.ckpt"
        first.save_checkpoint(checkpoint)

        resumed = Classifier()
        trainer(4, folder).fit(resumed, batches, ckpt_path=checkpoint)
    assert torch.equal(resumed.head.counts, 1 + 4 * seen)
    print(f"{int(resumed.head.counts.sum()) - CLASSES} examples counted over a restart, each once an epoch")


if __name__ == "__main__":
    main()
