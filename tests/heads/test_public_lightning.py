"""The loops of public scripts in Lightning and Fabric: every example is counted once, and no mistake is silent."""

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from lightning.pytorch.callbacks import BaseFinetuning
from put_in import WRONG, D, Net, V, batches, speaking
from torch import nn
from torch.utils.data import DataLoader

import firstsight
from firstsight import HebbianSoftmax, InputError


def counts(labels):
    return 1 + torch.bincount(labels.flatten(), minlength=V)


# Lightning-AI/pytorch-lightning examples/pytorch/basics/backbone_image_classifier.py
class Classifier(lightning.LightningModule):
    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.way, self.net = way, Net(nn.Linear(D, V) if way in ("attach", "no labels") else HebbianSoftmax(D, V))
        if way == "another optimizer":
            self.first = torch.optim.Adam(self.parameters(), lr=0.01)
            self.net.out.attach(self.first)

    def training_step(self, batch, _):
        x, y = batch
        if self.way in ("loss outside", "swapped alone", "attach", "no labels"):
            if self.way == "attach":
                self.handle.labels(y)
            return F.cross_entropy(self.net(x), y)
        return self.net.out.loss(self.net.body(x), y)

    def validation_step(self, batch, _):
        self.log("valid_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=0.01)
        if self.way in ("attach", "no labels"):
            self.handle = firstsight.attach(self.net.out, optimizer, counts="new")
        elif self.way in ("loss outside", "head.loss"):
            self.net.out.attach(optimizer)
        return optimizer


def fit(module, folder, data=None, **options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(accelerator="cpu", default_root_dir=folder, **{**quiet, "max_epochs": 1, **options})
    data = DataLoader(list(batches()) if data is None else data, batch_size=None)
    trainer.fit(module, data, data)


@pytest.mark.parametrize("way", ["head.loss", "attach"])
def test_lightning(way, tmp_path):
    module = Classifier(way)
    with speaking():
        fit(module, tmp_path, max_epochs=2, accumulate_grad_batches=5, gradient_clip_val=1.0)
    seen = module.net.out.counts if way == "head.loss" else module.handle.head.counts
    assert torch.equal(seen, counts(torch.cat([y for _, y in batches()] * 2)))


@pytest.mark.parametrize("way", ["loss outside", "swapped alone", "another optimizer", "no labels"])
def test_lightning_put_in_wrongly(way, tmp_path):
    with speaking(), pytest.raises((InputError, UserWarning), match=WRONG[way]):
        fit(Classifier(way), tmp_path)


# Lightning-AI/pytorch-lightning examples/pytorch/domain_templates/computer_vision_fine_tuning.py: the body thaws later
def test_lightning_fine_tuning(tmp_path):
    class Thaw(BaseFinetuning):
        def freeze_before_training(self, module):
            self.freeze(module.net.body)

        def finetune_function(self, module, epoch, optimizer):
            if epoch == 1:
                self.unfreeze_and_add_param_group(module.net.body, optimizer)

    module = Classifier("head.loss")
    with speaking():
        fit(module, tmp_path, max_epochs=2, callbacks=[Thaw()])
    assert torch.equal(module.net.out.counts, counts(torch.cat([y for _, y in batches()] * 2)))


# Lightning-AI/pytorch-lightning examples/pytorch/domain_templates/generative_adversarial_net.py, with classes
@pytest.mark.parametrize("toggled", [True, False])
def test_lightning_two_players(toggled, tmp_path):
    class Players(Classifier):
        automatic_optimization = False

        def __init__(self):
            super().__init__("head.loss")
            self.generator = nn.Linear(D, D)
            self.automatic_optimization = False

        def training_step(self, batch, _):
            x, y = batch
            for player, optimizer in enumerate(self.optimizers()):
                if toggled:
                    self.toggle_optimizer(optimizer)
                made = self.generator(x) if player == 0 else torch.cat([x, self.generator(x).detach()])
                loss = self.net.out.loss(self.net.body(made), y if player == 0 else torch.cat([y, y]))
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
                if toggled:
                    self.untoggle_optimizer(optimizer)

        def configure_optimizers(self):
            judge = torch.optim.Adam(self.net.parameters(), lr=0.01)
            self.net.out.attach(judge)
            return torch.optim.Adam(self.generator.parameters(), lr=0.01), judge

    module = Players()
    with speaking():
        fit(module, tmp_path)
    assert torch.equal(module.net.out.counts, counts(torch.cat([y for _, y in batches()] * 2)))


# Lightning-AI/pytorch-lightning examples/fabric/image_classifier/train_fabric.py, and kfold_cv's models in turn
@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("when", ["before", "after", "no labels", "other labels"])
def test_fabric(when, folds):
    fabric = Fabric(accelerator="cpu", devices=1)
    nets = [Net(nn.Linear(D, V)) for _ in range(folds)]
    inner = [net.out for net in nets]
    optimizers = [torch.optim.Adadelta(net.parameters(), lr=1.0) for net in nets]
    handles = []
    if when != "after":
        handles = [firstsight.attach(out, o, counts="new") for out, o in zip(inner, optimizers, strict=True)]
    nets, optimizers = zip(*[fabric.setup(net, o) for net, o in zip(nets, optimizers, strict=True)], strict=True)
    if when == "after":
        handles = [firstsight.attach(out, o, counts="new") for out, o in zip(inner, optimizers, strict=True)]

    def train():
        for net, optimizer, handle in zip(nets, optimizers, handles, strict=True):
            for x, y in batches():
                optimizer.zero_grad()
                if when != "no labels":
                    handle.labels((y + 1) % V if when == "other labels" else y)
                fabric.backward(F.nll_loss(net(x).log_softmax(1), y))
                optimizer.step()

    with speaking():
        if when in WRONG:
            with pytest.raises(InputError, match=WRONG[when]):
                train()
            return
        train()
    for handle in handles:
        assert torch.equal(handle.head.counts, counts(torch.cat([y for _, y in batches()])))
