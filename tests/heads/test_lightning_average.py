"""Lightning's averages of weights, with buffers as they come: the counts of the model are kept."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch.utils.data import DataLoader, TensorDataset

from firstsight import HebbianSoftmax


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(6, 8), HebbianSoftmax(8, 5)

    def training_step(self, batch, _):
        return self.head.loss(self.body(batch[0]), batch[1])

    def validation_step(self, batch, _):
        return self.head.loss(self.body(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        self.head.attach(optimizer)
        return optimizer


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*GPU available.*")
@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("kind", [WeightAveraging, EMAWeightAveraging])
def test_counts_outlive_the_average(kind, use_buffers, tmp_path):
    torch.manual_seed(0)
    labels = torch.randint(5, (48,))
    batches = DataLoader(TensorDataset(torch.randn(48, 6), labels), batch_size=8)
    model = Classifier()
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[kind(use_buffers=use_buffers)],
    )
    trainer.fit(model, batches, batches)
    counts = 1 + 3 * torch.bincount(labels, minlength=5)
    assert torch.equal(model.state_dict()["head.counts"], counts)
    assert torch.equal(model.head.counts, counts)
    model.head.write(torch.randn(1, 8), torch.tensor([2]))
    assert model.head.counts[2] == counts[2] + 1
