"""What people's loops do to a head: it is written, or refused, or said once; over all heads and rules."""

import copy
import gc
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from contract_heads import D, V, batch, drawn, same
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from firstsight import HebbianSoftmax, InputError, Softmax
from firstsight.heads.steps.watch import LIMIT


@pytest.fixture
def hebbian(make):
    if make is Softmax:
        pytest.skip("has nothing to write")
    return make


def sgd(head, lr=0.1):
    return torch.optim.SGD(head.parameters(), lr=lr)


def attached(make, lr=0.1, optimizer=sgd, **options):
    head = drawn(make(D, V, dtype=torch.float64, **options))
    optimizer = optimizer(head, lr)
    head.attach(optimizer)
    return head, optimizer


# 1 and 8: whose rows they are


@pytest.mark.parametrize("name", ["counts", "settings", "moments", "fresh"])
def test_a_state_that_cannot_be_is_refused(hebbian, name):
    head, optimizer = attached(hebbian)
    head.loss(*batch()).backward()
    optimizer.step()
    state = head.state_dict()
    if name not in state:
        pytest.skip("the rule keeps none")
    value = {"counts": 0, "settings": 7, "moments": torch.nan, "fresh": 99}[name]
    state[name] = torch.full_like(state[name], value)
    other = hebbian(D, V, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"counts are 1 \+|damaged|moments hold|fresh says"):
        other.load_state_dict(state)


@pytest.mark.parametrize("changed", [{"T": 7}, {"gamma": 0.5}])
def test_a_state_of_other_settings_is_refused(hebbian, changed):
    state = hebbian(D, V).state_dict()
    with pytest.raises(RuntimeError, match=r"was made with rule='.*, and this head has"):
        hebbian(D, V, **changed).load_state_dict(state)
    del state["settings"]  # as the message says
    hebbian(D, V, **changed).load_state_dict(state)


def test_settings_that_were_changed_are_saved_as_they_are(hebbian):
    head = hebbian(D, V)
    head.T, head.gamma = 33, 0.25
    other = hebbian(D, V, T=33, gamma=0.25)
    other.load_state_dict(head.state_dict())
    assert same(head, other)


def test_a_state_of_more_classes_says_how_to_load_it(hebbian):
    head = hebbian(D, V)
    head.add_classes(3)
    other = hebbian(D, V)
    with pytest.raises(RuntimeError, match=r"of 12 classes, the head of 9.*add_classes\(3\)"):
        other.load_state_dict(head.state_dict())
    other.add_classes(3)
    other.load_state_dict(head.state_dict())
    assert same(head, other)


def use(head, what):
    if what == "loss":
        head.loss(*batch(dtype=torch.float32)).backward()
    elif what == "write":
        head.write(*batch(dtype=torch.float32))
    elif what == "add_classes":
        head.add_classes(1)
    elif what == "state_dict":
        head.state_dict()
    else:
        head.attach(sgd(head))


@pytest.mark.parametrize("what", ["write", "add_classes", "state_dict", "attach"])
def test_memory_that_nobody_filled_is_never_used(hebbian, what):
    """A loader that sets the parameters it finds and leaves raw memory in all else, as one of transformers does."""
    trained = nn.Linear(D, V)
    with torch.device("meta"):
        head = hebbian(D, V)
    head.weight, head.bias = nn.Parameter(trained.weight.clone()), nn.Parameter(trained.bias.clone())
    for name, value in list(head.named_buffers()):
        setattr(head, name, torch.empty_like(value, device="cpu").random_(0, 3))
    with pytest.raises(InputError, match=r'never filled.*head.set_counts\("trained"\)'):
        use(head, what)
    assert torch.equal(head.weight, trained.weight)
    head.set_counts("trained")
    use(head, what)
    rows = slice(0, V)
    if what == "write":
        assert torch.equal(head.weight[rows], trained.weight), "trained rows are left to the gradient"


def test_off_the_meta_device_there_is_nothing_in_it(hebbian):
    head = hebbian(D, V, device="meta").to_empty(device="cpu")
    for value in head.buffers():
        value.zero_()
    with pytest.raises(InputError, match="never filled"):
        head.write(*batch(dtype=torch.float32))
    head.reset_parameters()
    head.write(*batch(dtype=torch.float32))


@pytest.mark.parametrize("how", ["weight_norm", "old weight_norm", "spectral_norm", "prune"])
def test_a_weight_that_is_computed_is_refused(make, how):
    head = make(D, V)
    optimizer = sgd(head)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "weight_norm":
            nn.utils.parametrizations.weight_norm(head)
        elif how == "spectral_norm":
            nn.utils.parametrizations.spectral_norm(head)
        elif how == "prune":
            prune.l1_unstructured(head, "weight", 0.5)
        else:
            nn.utils.weight_norm(head)
    with pytest.raises(InputError, match="computed from other tensors"):
        head.attach(sgd(head))
    with pytest.raises(InputError, match="computed from other tensors"):
        head.add_classes(1)
    if isinstance(head, HebbianSoftmax):
        with pytest.raises(InputError, match="computed from other tensors"):
            head.write(*batch(dtype=torch.float32))
    head.loss(*batch(dtype=torch.float32)).backward()  # it can be trained
    del optimizer


@pytest.mark.parametrize("how", ["assigned", "set", "converted", "weight_norm"])
def test_a_parameter_that_was_replaced_is_refused(hebbian, how):
    head, optimizer = attached(hebbian)
    handle = next(iter(head._attached.values()))
    assert handle.weight is head.weight
    if how == "assigned":
        head.load_state_dict({k: v.clone() for k, v in head.state_dict().items()}, assign=True)
    elif how == "set":
        head.weight = nn.Parameter(head.weight.detach().clone())
    elif how == "weight_norm":
        nn.utils.parametrizations.weight_norm(head)
    else:
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            head.to(torch.float32)
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
    h, y = batch(dtype=torch.float64 if how != "converted" else torch.float32)
    counts = head.counts.clone()
    with pytest.raises(InputError, match=r"not the parameter that was attached.*handle.remove\(\)"):
        head.loss(h, y)
    with pytest.raises(InputError, match="not the parameter that was attached"):
        optimizer.step()
    assert torch.equal(head.counts, counts)
    if how != "weight_norm":
        head._detach(id(optimizer))
        again = sgd(head)
        head.attach(again)
        head.loss(h, y).backward()
        again.step()
        assert head.counts.sum() == counts.sum() + len(y)


# 2: what is not finite


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_never_written(hebbian, bad):
    head, optimizer = attached(hebbian)
    reference = copy.deepcopy(head)
    other = sgd(reference)
    reference.attach(other)
    h, y = batch()
    broken = h.clone()
    broken[3, 1], broken[7] = bad, bad
    kept = y.masked_fill(~broken.isfinite().all(1), -100)
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(InputError, match="NaN or infinity"):
        head.write(broken, y)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):  # a loss that leaves them out, as a robust one does
            for one, by, hidden, labels in ((head, optimizer, broken, y), (reference, other, h, kept)):
                by.zero_grad()
                logits = one(h)
                one.observe(logits, hidden, labels)
                F.cross_entropy(logits, kept).backward()
                by.step()
    assert [str(one.message)[:50] for one in said] == ["an example that is NaN or infinite was left out of"]
    assert same(head, reference)


def test_sums_that_overflow_are_left_out(hebbian):
    head, optimizer = attached(hebbian)
    h, y = batch()
    out = head.weight.sum() * 0
    with pytest.warns(UserWarning, match="left out of the write"):
        head.observe(out, torch.full_like(h, 1e308), torch.zeros_like(y))
    out.backward()
    optimizer.step()
    assert head.weight.isfinite().all()


# 5: by value


def test_what_happens_after_the_loss_is_not_written(hebbian):
    heads = []
    for late in (False, True):
        torch.manual_seed(0)
        head, optimizer = attached(hebbian)
        h, y = batch()
        h.requires_grad_()
        loss = head.loss(h, y)
        if late:
            with torch.no_grad():
                y.fill_(0)
                h.data.zero_()
        loss.backward()
        optimizer.step()
        heads.append(head)
    assert same(*heads)


# 9: a pass that never reached the weight


@pytest.mark.parametrize("how", ["autograd.grad", "inputs", "grad of the weight", "create_graph"])
def test_a_pass_that_never_reached_the_weight_is_not_written(hebbian, how):
    heads = []
    for looked in (False, True):
        torch.manual_seed(0)
        head, optimizer = attached(hebbian)
        h, y = batch()
        head.loss(h, y).backward()
        if looked:
            x = batch(seed=9)[0].requires_grad_()
            loss = head.loss(x, batch(seed=9)[1])
            if how == "autograd.grad":
                torch.autograd.grad(loss, x)
            elif how == "create_graph":
                torch.autograd.grad(loss, x, create_graph=True)
            elif how == "inputs":
                loss.backward(inputs=[x])
            else:
                torch.autograd.grad(loss, head.weight)
        optimizer.step()
        heads.append(head)
    assert same(*heads)


def test_a_pass_before_the_next_is_not_mixed_with_it(hebbian):
    head, optimizer = attached(hebbian)
    x = batch()[0].requires_grad_()
    for _ in range(20):
        torch.autograd.grad(head.loss(x, batch()[1]), x)
    head.loss(*batch(seed=1)).backward()
    optimizer.step()
    assert head.counts.sum() == V + 12


# 6: optimizers with weights of their own


class Masters(torch.optim.SGD):
    """Steps copies in float32 and copies them back."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.masters = [p.detach().float().clone().requires_grad_() for g in self.param_groups for p in g["params"]]
        self.inner = torch.optim.SGD(self.masters, lr)

    @torch.no_grad()
    def step(self, closure=None):
        parameters = [p for g in self.param_groups for p in g["params"]]
        for parameter, master in zip(parameters, self.masters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
        self.inner.step()
        for parameter, master in zip(parameters, self.masters, strict=True):
            parameter.copy_(master)


class Lookahead(torch.optim.SGD):
    """Goes back half way every five steps."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault("slow", parameter.clone())
                state["steps"] = state.get("steps", 0) + 1
        super().step()
        for parameter, state in self.state.items():
            if state["steps"] % 5 == 0:
                state["slow"] += 0.5 * (parameter - state["slow"])
                parameter.copy_(state["slow"])


class Averaging(torch.optim.SGD):
    """Its weights are what it has averaged, as schedule-free ones are."""

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in [p for g in self.param_groups for p in g["params"]]:
            state = self.state[parameter]
            z = state.setdefault("z", parameter.clone())
            state["k"] = state.get("k", 0) + 1
            parameter.lerp_(z, 1 / state["k"]).sub_(parameter.grad, alpha=self.defaults["lr"])
            z.sub_(parameter.grad, alpha=self.defaults["lr"])


@pytest.mark.parametrize("kind", [Masters, Lookahead, Averaging])
def test_an_optimizer_that_takes_the_write_back_is_named_at_the_first_step(hebbian, kind):
    head, optimizer = attached(hebbian, optimizer=lambda head, lr: kind(head.parameters(), lr))
    state = torch.get_rng_state()
    head.loss(*batch()).backward()
    with pytest.warns(UserWarning, match=f"{kind.__name__}, keeps weights of its own"):
        optimizer.step()
    assert torch.equal(torch.get_rng_state(), state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.loss(*batch()).backward()
        optimizer.step()


def test_what_goes_back_between_the_steps_is_named(hebbian):
    """A wrapper that nobody told the head of."""
    head, optimizer = attached(hebbian)
    slow = head.weight.detach().clone()
    head.loss(*batch()).backward()
    optimizer.step()
    with torch.no_grad():
        head.weight.lerp_(slow, 0.5)
    head.loss(*batch()).backward()
    with pytest.warns(UserWarning, match="between two steps of the optimizer rows went back"):
        optimizer.step()


@pytest.mark.parametrize(
    "kind",
    [
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.Adagrad,
        torch.optim.RMSprop,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.Adadelta,
        torch.optim.Rprop,
        torch.optim.ASGD,
        torch.optim.Adafactor,
    ],
)
def test_the_optimizers_of_torch_are_not(hebbian, kind):
    head, optimizer = attached(hebbian, optimizer=lambda head, lr: kind(head.parameters(), lr=lr))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(12):
            optimizer.zero_grad()
            head.loss(*batch(seed=seed)).backward()
            optimizer.step()


# 7: attached and never written


def test_an_optimizer_whose_step_clears_the_gradients(hebbian):
    class Clearing(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            self.zero_grad()

    heads = []
    for kind in (torch.optim.SGD, Clearing):
        torch.manual_seed(0)
        head, optimizer = attached(hebbian, optimizer=lambda head, lr, kind=kind: kind(head.parameters(), lr))
        for seed in range(4):
            optimizer.zero_grad()
            head.loss(*batch(seed=seed)).backward()
            optimizer.step()
        heads.append(head)
    assert same(*heads)
    assert heads[0].counts.sum() == V + 4 * 12


class Sam(torch.optim.Optimizer):
    """The usual one of two steps, with the optimizer that steps inside."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["old"] = parameter.detach().clone()
                parameter.add_(parameter.grad, alpha=group["rho"])
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.copy_(self.state[parameter]["old"])
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        closure = torch.enable_grad()(closure)
        self.first_step()
        closure()
        self.second_step()


def train_sam(head, sam, steps, closure=False):
    for seed in range(steps):

        def again(seed=seed):
            loss = head.loss(*batch(seed=seed))
            loss.backward()
            return loss

        again()
        if closure:
            sam.step(again)
        else:
            sam.first_step()
            again()
            sam.second_step()


def test_sam(hebbian):
    """Attached to the optimizer that steps each batch is written once; attached to the other it is said, or works."""
    heads = []
    for where in ("inner", "closure"):
        torch.manual_seed(0)
        head = drawn(hebbian(D, V, dtype=torch.float64))
        sam = Sam(head.parameters(), torch.optim.SGD, lr=0.1)
        head.attach(sam.base_optimizer if where == "inner" else sam)
        train_sam(head, sam, 6, closure=where == "closure")
        heads.append(head)
        assert head.counts.sum() == V + 6 * 12
    assert torch.allclose(heads[0].weight, heads[1].weight)
    head = drawn(hebbian(D, V, dtype=torch.float64))
    sam = Sam(head.parameters(), torch.optim.SGD, lr=0.1)
    head.attach(sam)
    with pytest.warns(UserWarning, match="Attach to that one; with SAM to its base_optimizer"):
        train_sam(head, sam, LIMIT // 2 + 1)
    assert head.counts.sum() == V


def steps_of(head, optimizer, steps, loss=None):
    for seed in range(steps):
        optimizer.zero_grad()
        h, y = batch(seed=seed)
        (head.loss(h, y) if loss is None else loss(h, y)).backward()
        optimizer.step()


def test_a_loss_that_the_head_does_not_know_of(hebbian):
    head, optimizer = attached(hebbian)
    with pytest.warns(UserWarning, match=r"shown nothing to write.*head.loss or head.nll.*head.observe"):
        steps_of(head, optimizer, LIMIT, lambda h, y: F.cross_entropy(head(h), y))
    assert head.counts.sum() == V


def test_a_head_left_in_evaluation_mode(hebbian):
    head, optimizer = attached(hebbian)
    head.eval()
    with pytest.warns(UserWarning, match="evaluation mode"):
        steps_of(head, optimizer, LIMIT)


def test_another_optimizer_steps(hebbian):
    head, optimizer = attached(hebbian)
    other = sgd(head)
    with pytest.warns(UserWarning, match="Does another optimizer step"):
        steps_of(head, other, LIMIT + 1)
    assert head.counts.sum() == V
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps_of(head, optimizer, 3)
    assert head.counts.sum() == V + 3 * 12


@pytest.mark.parametrize("how", ["never attached", "a copy", "logits"])
def test_a_head_that_nobody_attached(hebbian, how):
    head, optimizer = attached(hebbian)
    head = copy.deepcopy(head) if how == "a copy" else hebbian(D, V, dtype=torch.float64)
    loss = (lambda h, y: F.cross_entropy(head(h), y)) if how == "logits" else None
    with pytest.warns(UserWarning, match=r"attached to no optimizer.*head.attach\(optimizer\)"):
        steps_of(head, sgd(head), LIMIT, loss)
    del optimizer


@pytest.mark.parametrize("why", ["let go", "evaluation", "no gradient", "frozen", "few"])
def test_nothing_is_said_of_what_is_meant(hebbian, why):
    head, optimizer = attached(hebbian)
    if why == "let go":
        head._detach(id(optimizer))
    else:
        head = copy.deepcopy(head)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if why == "let go":
            steps_of(head, optimizer, 2 * LIMIT)
        elif why == "few":
            steps_of(head, sgd(head), LIMIT - 1)
        else:
            head.train(why != "evaluation")
            head.requires_grad_(why != "frozen")
            for seed in range(2 * LIMIT):
                with torch.set_grad_enabled(why != "no gradient"):
                    head.loss(batch(seed=seed)[0].requires_grad_(), batch(seed=seed)[1])


# 10: inference mode


@pytest.mark.parametrize("what", ["add_classes", "attach", "write", "remove_classes", "all"])
def test_what_is_done_in_inference_mode_is_as_without_gradients(make, what):
    heads = []
    for mode in (torch.no_grad, torch.inference_mode):
        torch.manual_seed(0)
        head = drawn(make(D, V, dtype=torch.float64))
        optimizer = sgd(head)
        with mode():
            if what in ("attach", "all"):
                head.attach(optimizer)
            if what in ("add_classes", "all"):
                head.add_classes(2)
            if what in ("write", "all") and make is not Softmax:
                head.write(*batch())
            if what in ("remove_classes", "all"):
                head.remove_classes([1])
        if not head.attached:
            head.attach(optimizer)
        steps_of(head, optimizer, 3, lambda h, y, head=head: head.loss(h, y % head.num_classes))
        fresh = make(D, head.num_classes, dtype=torch.float64)
        fresh.load_state_dict(copy.deepcopy(head.state_dict()))
        heads.append(head)
    assert same(*heads)


# 11: growth that the optimizer does not survive


@pytest.mark.parametrize("what", ["add_classes", "remove_classes"])
@pytest.mark.parametrize("kind", ["lbfgs", "lookahead around adam", "shared"])
def test_growth_that_an_optimizer_cannot_follow_changes_nothing(make, kind, what):
    head = drawn(make(D, V, dtype=torch.float64))
    other = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    if kind == "lbfgs":
        optimizer = torch.optim.LBFGS([other, *head.parameters()])
    else:
        kinds = {"lookahead around adam": Around, "shared": Sharing}
        optimizer = kinds[kind](torch.optim.Adam([other, *head.parameters()], lr=0.1))
    head.attach(optimizer)
    h, y = batch()

    def closure():
        optimizer.zero_grad()
        loss = head.loss(h, y) + other.square().sum()
        loss.backward()
        return loss

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            closure()
            optimizer.step(closure)
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(InputError, match="what a new row of it starts with is not known here"):
        head.add_classes(2) if what == "add_classes" else head.remove_classes([1])
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    closure()
    optimizer.step(closure)


class Around(torch.optim.Optimizer):
    """Keeps an optimizer inside, and a slow copy of the weights for itself; has no hooks of its own."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.param_groups, self.state = optimizer.param_groups, {}

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        self.optimizer.step()
        for group in self.param_groups:
            for parameter in group["params"]:
                slow = self.state.setdefault(parameter, {}).setdefault("slow", parameter.detach().clone())
                slow += 0.5 * (parameter.detach() - slow)


class Sharing(torch.optim.Optimizer):
    """Has hooks, and leaves the work to one that it keeps."""

    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, {})
        self.local = optimizer

    def step(self, closure=None):
        self.local.step()


# 13: the rest


def test_optimizers_are_freed_and_their_hooks_with_them(make):
    head = make(D, V)
    dead = []
    for _ in range(20):
        optimizer = sgd(head)
        head.attach(optimizer)
        head.loss(*batch(dtype=torch.float32)).backward()
        optimizer.step()
        dead.append(weakref.ref(optimizer))
    del optimizer
    gc.collect()
    assert [one() for one in dead] == [None] * 20
    assert not head.attached
    assert not head.weight._backward_hooks
    assert not head.weight._post_accumulate_grad_hooks


def test_an_optimizer_that_is_none_of_torchs(make):
    class Own:
        def __init__(self, parameters):
            self.param_groups = [{"params": list(parameters)}]

        def step(self):
            pass

    head = make(D, V)
    with pytest.raises(InputError, match=r"a Own, which has no hooks.*head.write\(h, y\)"):
        head.attach(Own(head.parameters()))


def test_a_T_without_end(hebbian):
    head = hebbian(D, V, T=float("inf"))
    state = Softmax(D, V).state_dict()
    with pytest.raises(RuntimeError, match=r'state\["counts"\] = torch.full'):
        head.load_state_dict(state)
    head = hebbian.from_linear(nn.Linear(D, V), "trained", T=float("inf")) if hebbian is HebbianSoftmax else head
    head.write(*batch(dtype=torch.float32))
    other = hebbian(D, V, T=float("inf"))
    other.load_state_dict(head.state_dict())
    assert same(head, other)


def test_labels_that_the_loss_does_not_have(hebbian):
    head, optimizer = attached(hebbian)
    h, y = batch((4, 6))
    logits = head(h)
    head.observe(logits, h, (y + 1) % V)
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(InputError, match="the loss learns other labels"):
        F.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
    optimizer.zero_grad()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        lambda z, y: F.cross_entropy(z, y, label_smoothing=0.4),
        lambda z, y: F.cross_entropy(100 * z, y, label_smoothing=0.1),
        lambda z, y: F.cross_entropy(z, y, weight=torch.arange(1.0, V + 1, dtype=z.dtype)),
        lambda z, y: F.multi_margin_loss(z, y),
        lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, V).to(z)),
        lambda z, y: ((1 - z.softmax(1).gather(1, y[:, None])) ** 2 * F.cross_entropy(z, y, reduction="none")).mean(),
        lambda z, y: F.cross_entropy(z, 0.7 * F.one_hot(y, V) + 0.3 * F.one_hot(y.flip(0), V).to(z)),
        lambda z, y: F.cross_entropy(z[:3], y[:3]),
    ],
)
def test_the_losses_that_people_have_pass(hebbian, loss):
    for seed in range(5):
        head, optimizer = attached(hebbian)
        h, y = batch(seed=seed)
        logits = head(5 * h)
        head.observe(logits, h, y)
        loss(logits, y).backward()
        optimizer.step()
        assert head.counts.sum() == V + len(y)


# 12: averaging

AVERAGES = {
    "swa": {},
    "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.999)},
    "own": {"avg_fn": lambda averaged, now, n: averaged + (now - averaged) / (n + 1)},
    "no buffers": {"use_buffers": False},
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_an_averaged_model_counts_as_the_model_does(hebbian, kind):
    head, optimizer = attached(hebbian)
    averaged = AveragedModel(nn.Sequential(head), **{"use_buffers": True, **AVERAGES[kind]})
    snapshot = copy.deepcopy(head)
    for seed in range(12):
        steps_of(head, optimizer, 1, lambda h, y, seed=seed: head.loss(*batch(seed=seed)))
        averaged.update_parameters(nn.Sequential(head))
    other = averaged.module[0]
    assert torch.equal(averaged.state_dict()["module.0.counts"], head.counts)
    assert torch.equal(other.counts, head.counts)
    other.write(*batch(seed=99))
    assert other.counts.sum() == head.counts.sum() + 12
    assert snapshot.counts.sum() == V, "a copy that nobody averages is a copy"
    # at its end Lightning writes the average over the model, buffers and all
    averaged.update_parameters(nn.Sequential(head))
    counts = head.counts.clone()
    for now, mean in zip(head.buffers(), other.buffers(), strict=True):
        now.data.copy_(mean.data)
    assert torch.equal(head.counts, counts)
    head.write(*batch(seed=99))
    assert head.counts.sum() == counts.sum() + 12


def test_an_average_of_a_model_that_is_gone_is_refused(hebbian):
    head, optimizer = attached(hebbian)
    averaged = AveragedModel(head, use_buffers=True, **AVERAGES["ema"])
    for _ in range(3):
        steps_of(head, optimizer, 1)
        averaged.update_parameters(head)
    raw = {name: value.clone() for name, value in averaged.module.named_buffers()}
    del head, optimizer
    gc.collect()
    with pytest.raises(InputError, match=r"were averaged.*use_buffers=False.*head.set_counts"):
        averaged.module.write(*batch())
    state = {**hebbian(D, V, dtype=torch.float64).state_dict(), **raw}
    with pytest.raises(RuntimeError, match="were averaged with its rows"):
        hebbian(D, V, dtype=torch.float64).load_state_dict(state)
    averaged.module.set_counts("trained")
    averaged.module.write(*batch())
