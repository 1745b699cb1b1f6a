"""The loops of PyTorch's own scripts, each in a few lines of our own; ``put`` is how firstsight is put in."""

import copy
import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from public_others import OTHERS
from put_in import STEPS, D, Net, V, batches
from torch import nn


# pytorch/examples mnist/main.py: log_softmax and nll_loss, an evaluation and a scheduler's step after each epoch
def mnist(put):
    net = put.net
    optimizer = torch.optim.Adadelta(net.parameters(), lr=1.0)
    put.attach(optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)
    for epoch in range(2):
        net.train()
        for x, y in batches(6 * epoch, 6):
            optimizer.zero_grad()
            put.loss(x, y, lambda z, y: F.nll_loss(z.log_softmax(1), y)).backward()
            optimizer.step()
            put.step(y)
        net.eval()
        with torch.no_grad():
            net(x)
        scheduler.step()


# pytorch/examples imagenet/main.py: gradients zeroed between the passes; a checkpoint of model and optimizer is resumed
def imagenet(put):
    net = put.net
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    put.attach(optimizer)
    for epoch in range(2):
        for x, y in batches(6 * epoch, 6):
            loss = put.loss(x, y, nn.CrossEntropyLoss())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            put.step(y)
        saved = copy.deepcopy({"state_dict": net.state_dict(), "optimizer": optimizer.state_dict()})
        net.load_state_dict(saved["state_dict"])
        optimizer.load_state_dict(saved["optimizer"])


# pytorch/examples gat/main.py: one graph, always all of its nodes; the loss takes those of the training mask
def gat(put):
    net = put.net
    optimizer = torch.optim.Adam(net.parameters(), lr=0.005, weight_decay=5e-4)
    put.attach(optimizer)
    ((x, y),) = batches(steps=1, shape=(20,))
    masked = y.masked_fill(torch.arange(20) >= 12, -100)
    for _ in range(STEPS):
        net.train()
        optimizer.zero_grad()
        put.loss(x, masked, lambda z, y: F.nll_loss(z.log_softmax(1)[:12], y[:12])).backward()
        optimizer.step()
        put.step(masked)
        net.eval()
        with torch.no_grad():
            net(x)


# pytorch/examples time_sequence_prediction/train.py: LBFGS, which calls a closure several times a step
def lbfgs(put):
    optimizer = torch.optim.LBFGS(put.net.parameters(), lr=0.1, max_iter=3)
    put.attach(optimizer)
    for x, y in batches():

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = put.loss(x, y)
            loss.backward()
            return loss

        optimizer.step(closure)
        put.step(y)


# pytorch/examples mnist_hogwild/train.py: parameters in shared memory
def hogwild(put, attached=True):
    put.net.share_memory()
    optimizer = torch.optim.SGD(put.net.parameters(), lr=0.01, momentum=0.5)
    if attached:
        put.attach(optimizer)
    for x, y in batches():
        optimizer.zero_grad()
        put.loss(x, y).backward()
        optimizer.step()
        put.step(y)


# pytorch/tutorials beginner_source/transfer_learning_tutorial.py: a frozen body, two phases, set_grad_enabled
def transfer(put):
    net = put.net
    net.body.requires_grad_(False)
    optimizer = torch.optim.SGD(net.out.parameters(), lr=0.01, momentum=0.9)
    put.attach(optimizer)
    for epoch in range(2):
        for phase in ("train", "val"):
            net.train(phase == "train")
            for x, y in batches(6 * epoch, 6):
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    if phase == "val":
                        F.cross_entropy(net(x), y)
                        continue
                    put.loss(x, y).backward()
                    optimizer.step()
                    put.step(y)


# pytorch/tutorials recipes_source/recipes/amp_recipe.py: autocast and GradScaler; step 3 overflows
def amp(put):
    optimizer = torch.optim.SGD(put.net.parameters(), lr=0.01)
    put.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for step, (x, y) in enumerate(batches(steps=STEPS + 1)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = put.loss(x, y) * (math.inf if step == 3 else 1)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if step != 3:
            put.step(y)


# pytorch/tutorials intermediate_source/optimizer_step_in_backward_tutorial.py: an optimizer for each parameter
def step_in_backward(put):
    optimizers = {p: torch.optim.Adam([p], foreach=False) for p in put.net.parameters()}
    put.attach(optimizers[put.net.out.weight])

    def hook(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in optimizers:
        p.register_post_accumulate_grad_hook(hook)
    for x, y in batches():
        put.loss(x, y).backward()
        put.step(y)


# pytorch/tutorials beginner_source/knowledge_distillation_tutorial.py: half of the loss is a teacher's
def distillation(put):
    teacher = Net(nn.Linear(D, V)).eval()
    optimizer = torch.optim.Adam(put.net.parameters(), lr=0.001)
    put.attach(optimizer)
    for x, y in batches():
        optimizer.zero_grad()
        with torch.no_grad():
            soft = (teacher(x) / 2).softmax(-1)
        mixed = lambda z, y, soft=soft: 0.75 * F.cross_entropy(z, y) - (soft * (z / 2).log_softmax(-1)).sum(-1).mean()  # noqa: E731
        put.loss(x, y, mixed).backward()
        optimizer.step()
        put.step(y)


# pytorch/tutorials intermediate_source/seq2seq_translation_tutorial.py: word for word, and two optimizers
def seq2seq(put):
    encoder, net = nn.Linear(D, D), put.net
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.01) for part in (encoder, net)]
    put.attach(optimizers[1])
    for x, y in batches(shape=(4, 3)):
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(put.loss(encoder(x[:, t]), y[:, t]) for t in range(3)).backward()
        for optimizer in optimizers:
            optimizer.step()
        put.step(y)


# pytorch/examples distributed/ddp-tutorial-series/multigpu.py: DistributedDataParallel
def ddp(put):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    wrapped = None
    try:
        optimizer = torch.optim.SGD(put.net.parameters(), lr=1e-3)
        put.attach(optimizer)
        wrapped = nn.parallel.DistributedDataParallel(put.net)
        for x, y in batches():
            optimizer.zero_grad()
            put.loss(x, y, through=wrapped if put.way == "attach" else None).backward()
            optimizer.step()
            put.step(y)
    finally:
        # Whatever holds the group's last reference waits for gloo's thread; torch's reducer does so with the GIL, which
        # that thread may want. So the reducer goes first.
        wrapped = None
        dist.destroy_process_group()


LOOPS = {
    loop.__name__: loop
    for loop in (
        *(mnist, imagenet, gat, lbfgs, hogwild, transfer, amp, step_in_backward, distillation, seq2seq, ddp),
        *OTHERS,
    )
}
