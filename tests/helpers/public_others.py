"""The loops of public scripts other than PyTorch's tutorials and examples, as in ``public_loops``."""

import copy

import torch
import torch.nn.functional as F
from put_in import STEPS, D, Sam, V, batches
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn


# pytorch/vision references/classification/train.py: smoothed labels, clipping, and a moving average of all, buffers too
def vision(put):
    optimizer = torch.optim.SGD(put.net.parameters(), 0.1, 0.9, nesterov=True)
    put.attach(optimizer)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=1)
    average = AveragedModel(put.net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for epoch in range(2):
        put.net.train()
        for x, y in batches(6 * epoch, 6):
            loss = put.loss(x, y, nn.CrossEntropyLoss(label_smoothing=0.1))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(put.net.parameters(), 1.0)
            optimizer.step()
            put.step(y)
            average.update_parameters(put.net)
        warm.step()
        put.net.eval(), average.eval()
        with torch.inference_mode():
            put.net(x), average(x)


# timgaripov/swa utils.py, as in torch.optim.swa_utils: an average from some epoch on, whose statistics are made anew
def swa(put):
    optimizer = torch.optim.SGD(put.net.parameters(), 0.1, momentum=0.9)
    put.attach(optimizer)
    average, scheduler = AveragedModel(put.net), SWALR(optimizer, swa_lr=0.05)
    for epoch in range(3):
        for x, y in batches(4 * epoch, 4):
            loss = put.loss(x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            put.step(y)
        if epoch:
            average.update_parameters(put.net)
            scheduler.step()
    update_bn(list(batches()), average)


# huggingface/pytorch-image-models train.py: mixup, whose targets are soft
def timm(put):
    optimizer = torch.optim.AdamW(put.net.parameters(), 1e-2)
    put.attach(optimizer)
    average = copy.deepcopy(put.net).requires_grad_(False)
    for x, y in batches():
        hard = F.one_hot(y, V).float()
        soft = 0.8 * hard + 0.2 * hard.flip(0)
        loss = put.loss(0.8 * x + 0.2 * x.flip(0), y, lambda z, y, soft=soft: F.cross_entropy(z, soft))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        put.step(y)
        for ours, theirs in zip(average.parameters(), put.net.parameters(), strict=True):
            ours.lerp_(theirs.detach(), 0.1)


# davidtvs/pytorch-lr-finder torch_lr_finder/lr_finder.py: steps to find a rate, then model and optimizer as they were
def lr_finder(put):
    optimizer = torch.optim.SGD(put.net.parameters(), 1e-4)
    put.attach(optimizer)
    before = copy.deepcopy((put.net.state_dict(), optimizer.state_dict()))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.5)
    for finding in (True, False):
        for x, y in batches():
            optimizer.zero_grad()
            put.loss(x, y).backward()
            optimizer.step()
            if finding:
                scheduler.step()
            else:
                put.step(y)
        if finding:
            put.net.load_state_dict(before[0])
            optimizer.load_state_dict(before[1])


# davda54/sam example/train.py: each batch goes forward and backward twice, and the optimizer inside steps once
def sam(put, inner=True):
    optimizer = Sam(put.net.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    put.attach(optimizer.base_optimizer if inner else optimizer)
    for x, y in batches():
        put.loss(x, y).backward()
        optimizer.first_step()
        put.loss(x, y).backward()
        optimizer.second_step()
        put.step(y)


# karpathy/nanoGPT train.py: tied, fused, a rate that starts at 0, micro-batches under a scaler, clipped
def nano_gpt(put):
    net, embedding = put.net, nn.Embedding(V, D)
    net.body = nn.Sequential(embedding, nn.LayerNorm(D))
    embedding.weight = net.out.weight
    decayed = [p for p in net.parameters() if p.dim() > 1]
    rest = [p for p in net.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": rest, "weight_decay": 0.0}], lr=1e-3, fused=True)
    put.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    tokens = [y for _, y in batches(steps=2 * STEPS, shape=(2, 5))]
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * step / STEPS
        for micro in tokens[2 * step : 2 * step + 2]:
            flat = lambda z, y: F.cross_entropy(z.flatten(0, 1), y.flatten())  # noqa: E731
            scaler.scale(put.loss(micro[:, :-1], micro[:, 1:].contiguous(), flat) / 2).backward()
            put.step(micro[:, 1:])
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)


# facebookresearch/fairseq fairseq/optim/fairseq_optimizer.py: around torch's optimizer; losses summed, grads divided
def fairseq(put):
    class Around:
        def __init__(self, optimizer):
            self._optimizer = optimizer

        optimizer = property(lambda self: self._optimizer)
        param_groups = property(lambda self: self.optimizer.param_groups)

    around = Around(torch.optim.Adam(put.net.parameters(), 1e-2))
    put.attach(around)
    for step in range(STEPS):
        for p in put.net.parameters():
            p.grad = None
        for x, y in batches(2 * step, 2):
            put.loss(x, y, lambda z, y: F.cross_entropy(z, y, reduction="sum")).backward()
            put.step(y)
        torch._foreach_mul_([p.grad for p in put.net.parameters()], 1 / 16)
        nn.utils.clip_grad_norm_(put.net.parameters(), 1.0)
        around.optimizer.step()


# OpenNMT/OpenNMT-py onmt/trainer.py (shard_size): generator forward and backward in shards, then the decoder
def open_nmt(put):
    decoder, net = nn.Linear(D, D), put.net
    net.body = nn.Identity()
    optimizer = torch.optim.Adam([*decoder.parameters(), *net.parameters()], 1e-2)
    put.attach(optimizer)
    for x, y in batches():
        optimizer.zero_grad()
        output = decoder(x)
        cut = output.detach().requires_grad_()
        for at in (slice(0, 4), slice(4, 8)):
            put.loss(cut[at], y[at]).backward()
        output.backward(cut.grad)
        optimizer.step()
        put.step(y)


OTHERS = vision, swa, timm, lr_finder, sam, nano_gpt, fairseq, open_nmt
