"""The loops of public scripts, each in a few lines of our own; ``put`` is how firstsight is put in."""

import copy
import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from put_in import STEPS, D, Net, Sam, V, batches
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn


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
        dist.destroy_process_group()


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


# timgaripov/swa train.py, as in torch.optim.swa_utils: an average from some epoch on, whose statistics are made anew
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


# facebookresearch/fairseq fairseq/trainer.py: an optimizer of its own kind around torch's, losses summed, grads divided
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


# OpenNMT/OpenNMT-py onmt/utils/loss.py: the generator goes forward and backward shard by shard, then the decoder
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


LOOPS = {
    loop.__name__: loop
    for loop in (
        *(mnist, imagenet, gat, lbfgs, hogwild, transfer, amp, step_in_backward, distillation, seq2seq, ddp, vision),
        *(swa, timm, lr_finder, sam, nano_gpt, fairseq, open_nmt),
    )
}
