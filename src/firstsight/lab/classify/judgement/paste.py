"""The lines of Python that a user pastes: their own file, the method that the advice names, a new label.

Every piece runs as it stands; the tests execute each. Labels are made strings, so that a new one can have any name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstsight.fitting import LEAST_STEPS
from firstsight.lab.classify.methods.catalogue import METHODS

Trial = Mapping[str, Any]

NEW = "my new label"
TFIDF = "tf-idf"  # how the offline encoder's name begins
WEIGHTS = "weight = len(Y) / (len(classes) * torch.bincount(Y).float())"


def paste(trial: Trial) -> str:
    """Python for the method to take: ours where it is ahead or as good, else the rival.

    Args:
        trial: the content of ``trial.json``. ``source`` says where the data are: ``{"file", "text", "label"}``, the
            file None for Python's own docstrings, the columns None for those of the default names.
    """
    side = trial["taken"]
    chosen = trial["choice"][side]
    method, arrival, rate = chosen["method"], chosen["arrival"], chosen["rate"]
    reading = [*_reading(trial), *_new(trial)]
    if side == "ours":
        layer = _layer(trial, method, rate, retrained=arrival == "replay")
        return "\n".join([*reading, *_estimator(trial, method), *layer, ""])
    if method in _SIMPLE:
        return "\n".join([*reading, *_SIMPLE[method](rate), ""])
    body = _logistic(rate) if method == "logistic" else _softmax(trial, method, rate)
    return "\n".join([*reading, *_SCALED, *body, *(_REPLAY if arrival == "replay" else []), *_ASKED, ""])


# ---- the user's data


def _reading(trial: Trial) -> list[str]:
    """``X`` [N, D] and ``y`` [N] of the user's file, read as the trial reads it; ``encode`` where it holds texts."""
    source = trial.get("source") or {}
    file, text, label = (source.get(name) for name in ("file", "text", "label"))
    if file is None:
        read = [
            "from firstsight.lab.classify.data.docstrings import docstrings",
            "",
            "source = docstrings()  # the texts that every Python carries",
        ]
    else:
        columns = "".join(f", {name}={value!r}" for name, value in (("text", text), ("label", label)) if value)
        read = [
            "from firstsight.lab.classify.data.source import read_source",
            "",
            f"source = read_source({str(Path(file).resolve())!r}{columns})",
        ]
    read = ["import numpy as np", *read, "y = np.array(source.labels, dtype=object)"]
    if str(file).lower().endswith(".npz"):
        return [*read, "X = source.vectors"]
    return [*read, *_encoding(trial.get("data") or {})]


def _encoding(data: Mapping[str, Any]) -> list[str]:
    """``encode``, which makes vectors of texts as the trial did, and ``X``."""
    encoder = str(data.get("encoder") or TFIDF)
    if not encoder.lower().startswith(TFIDF):
        return [
            "from sentence_transformers import SentenceTransformer",
            f"encode = SentenceTransformer({encoder!r}).encode",
            "X = encode(source.texts)",
        ]
    return [
        "from firstsight.lab.classify.data.texts import learnt",
        "encode = learnt(source.texts)  # TF-IDF of letter sequences and a truncated SVD",
        "X = encode(source.texts)",
    ]


def _new(trial: Trial) -> list[str]:
    vectors = str((trial.get("source") or {}).get("file")).lower().endswith(".npz")
    if vectors:
        made = "X_new = X[:2]  # in its place the vectors of a new label's examples"
    else:
        made = 'X_new = encode(["a text of the new label", "another one of it"])  # yours'
    return [made, f'y_new = ["{NEW}"] * len(X_new)', ""]


# ---- ours


def _estimator(trial: Trial, method: str) -> list[str]:
    """Nothing where a network is below the layer, which the estimator has not: then the layer alone is to be pasted."""
    settings = trial["settings"]
    if settings.get("body") == "mlp":
        return []
    given: dict[str, Any] = dict(METHODS[method].options) | ({"logit_adjustment": 1.0} if "adjusted" in method else {})
    rates: Mapping[str, Any] = next((one["rates"] for one in trial["methods"] if one["name"] == method), {})
    given |= {"learning_rate": rates["write"]} if "write" in rates else {}
    given |= {"epochs": _epochs(trial), "batch_size": settings["batch"], "random_state": settings["seed"]}
    arguments = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return [
        "from firstsight.estimator import FirstSightClassifier",
        "",
        f"clf = FirstSightClassifier({arguments}).fit(X, y)",
        "clf.partial_fit(X_new, y_new)  # known from now on; nothing is trained",
        "print(clf.predict(X_new))",
        'clf.save("my.safetensors")  # FirstSightClassifier.load("my.safetensors")',
        "",
    ]


def _layer(trial: Trial, method: str, rate: float | None, *, retrained: bool) -> list[str]:
    settings = trial["settings"]
    options = "".join(f", {name}={value!r}" for name, value in METHODS[method].options.items())
    given = f"rate={rate}, epochs={_epochs(trial)}, batch_size={settings['batch']}, least_steps={LEAST_STEPS}"
    given += f", seed={settings['seed']}"
    width, body = "X.shape[1]", []
    if settings.get("body") == "mlp":
        width, given = "256", f"{given}, body=body"
        body = ["body = nn.Sequential(nn.Linear(X.shape[1], 256), nn.ReLU(), nn.Dropout(0.2))  # as in the trial"]
    adjusted = []
    if method.endswith("-adjusted"):
        adjusted = ["loss = lambda h, y, rows: head.loss(h, y, logit_adjustment=torch.bincount(Y))"]
        given = f"{given}, loss=loss"
    new = "body(H_new)" if body else "H_new"
    return [
        "# As the last layer of a network of your own:",
        f"import torch{'; from torch import nn' if body else ''}",
        "from firstsight import HebbianSoftmax",
        "from firstsight.fitting import fit_head",
        "",
        *_scaled(),
        *body,
        f"head = HebbianSoftmax({width}, len(classes){options})",
        *adjusted,
        f"fit_head(head, H, Y, {given})  # or your own loop, after head.attach(optimizer)",
        "head.add_classes(1)",
        f"head.write({new}, torch.full((len(H_new),), len(classes)))  # knows it from now on",
        *(_fine_tuned("body" if body else "torch.nn.Identity()") if retrained else []),
        f"print(head.topk({new}, 3))",
    ]


def _fine_tuned(embed: str) -> list[str]:
    return [
        "import torch.nn.functional as F",
        f"embed, W, b = {embed}.requires_grad_(False).eval(), head.weight, head.bias",
        *_REPLAY,
        "head.load_state_dict(head.state_dict() | {'weight': W.detach(), 'bias': b.detach()})",
    ]


def _epochs(trial: Trial) -> int:
    """Those that were run: a budget may have cut them."""
    return int((trial.get("plan") or {}).get("epochs", trial["settings"]["epochs"]))


def _scaled() -> list[str]:
    """The vectors as the trial has them: centred, of mean squared length 1."""
    return [
        "classes, rows = np.unique(y, return_inverse=True)",
        "mean = X.mean(0); scale = np.sqrt(((X - mean) ** 2).sum(1).mean())",
        "H, H_new, Y = (torch.tensor(part) for part in ((X - mean) / scale, (X_new - mean) / scale, rows))",
    ]


# ---- rivals

_SCALED = ["import torch", "import torch.nn.functional as F", "", *_scaled()]
_ASKED = [
    f'names = [*classes, "{NEW}"]',
    "print([names[i] for i in F.linear(embed(H_new), W, b).argmax(1)])",
]
_IMPRINT = [
    "row = F.normalize(embed(H_new).mean(0), dim=0) * W.norm(dim=1).mean()  # imprinting: Qi et al. (2018)",
    "W, b = torch.vstack([W, row]), torch.cat([b, b.mean()[None]])",
]


def _means(rate: float | None) -> list[str]:
    return _again("from sklearn.neighbors import NearestCentroid", "NearestCentroid()")


def _knn(rate: float | None) -> list[str]:
    neighbours = 5 if rate is None else int(rate)
    return _again(
        "from sklearn.neighbors import KNeighborsClassifier",
        f'KNeighborsClassifier({neighbours}, weights="distance")',
    )


def _lda(rate: float | None) -> list[str]:
    shrinkage = "'auto'" if rate is None else f"{rate:g}"
    return [
        "from sklearn.discriminant_analysis import LinearDiscriminantAnalysis",
        "",
        "def fitted(X, y):  # with all classes as likely as each other",
        "    n = len(set(y))",
        f"    made = LinearDiscriminantAnalysis(solver='lsqr', shrinkage={shrinkage}, priors=[1 / n] * n)",
        "    return made.fit(X, y)",
        "",
        "X, y = np.concatenate([X, X_new]), np.concatenate([y, y_new])",
        "clf = fitted(X, y)  # again whenever a label comes; there is nothing to train",
        "print(clf.predict(X_new))",
    ]


def _again(imported: str, made: str) -> list[str]:
    return [
        imported,
        "",
        f"clf = {made}.fit(X, y)",
        "X, y = np.concatenate([X, X_new]), np.concatenate([y, y_new])",
        "clf.fit(X, y)  # again with the new label; there is nothing to train",
        "print(clf.predict(X_new))",
    ]


_SIMPLE = {"means": _means, "knn": _knn, "lda": _lda}


def _logistic(rate: float | None) -> list[str]:
    return [
        "from sklearn.linear_model import LogisticRegression",
        "",
        f"clf = LogisticRegression(C={1.0 if rate is None else rate:g}, max_iter=1000).fit(H.numpy(), rows)",
        'W, b = (torch.tensor(part.astype("float32")) for part in (clf.coef_, clf.intercept_))',
        "embed = lambda h: h",
        *_IMPRINT,
    ]


def _softmax(trial: Trial, method: str, rate: float | None) -> list[str]:
    """A linear layer on what ``embed`` gives, in plain torch."""
    settings, cosine = trial["settings"], method == "cosine"
    batches = "torch.randperm(len(Y))"
    logits, loss, before = "linear(embed(H[i]))", "F.cross_entropy({}, Y[i])", list[str]()
    network = []
    if settings.get("body") == "mlp":
        network = [
            "body = torch.nn.Sequential(torch.nn.Linear(X.shape[1], 256), torch.nn.ReLU(), torch.nn.Dropout(0.2))"
        ]
    below = "body(h)" if network else "h"
    embed = f"embed = lambda h: {f'F.normalize({below}, dim=-1)' if cosine else below}"
    made = f"linear = torch.nn.Linear({'256' if network else 'X.shape[1]'}, len(classes))"
    groups = [f'{{"params": linear.parameters(), "lr": {rate:g}}}']
    if network:
        groups.append('{"params": body.parameters(), "lr": 0.001}')
    if method == "softmax-weights":
        before, loss = [WEIGHTS], "F.cross_entropy({}, Y[i], weight=weight)"
    if method == "softmax-balanced":
        batches = "torch.multinomial(1 / torch.bincount(Y)[Y].float(), len(Y), replacement=True)"
    if method == "softmax-adjusted":
        logits = f"{logits} + torch.bincount(Y).log()"  # Menon et al. (2021)
    if cosine:
        before = ["log_scale = torch.nn.Parameter(torch.tensor(16.0).log())"]
        groups[0] = f'{{"params": [linear.weight, log_scale], "lr": {rate:g}}}'
        logits = "log_scale.exp() * F.linear(embed(H[i]), F.normalize(linear.weight, dim=1))"
    after = "W, b = linear.weight.detach(), linear.bias.detach()"
    if cosine:
        after = "W = log_scale.detach().exp() * F.normalize(linear.weight.detach(), dim=1); b = torch.zeros(len(W))"
    return [
        *network,
        embed,
        made,
        *before,
        f"optimizer = torch.optim.Adam([{', '.join(groups)}])",
        f"batches = -(-len(Y) // {settings['batch']})",
        f"epochs = max({_epochs(trial)}, -(-{LEAST_STEPS} // batches))",
        "schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (epochs * batches))",
        "for epoch in range(epochs):",
        f"    for i in {batches}.split({settings['batch']}):",
        f"        loss = {loss.format(logits)}",
        "        optimizer.zero_grad(); loss.backward(); optimizer.step(); schedule.step()",
        *(["body.requires_grad_(False).eval()"] if network else []),
        after,
        *_IMPRINT,
    ]


_REPLAY = [  # as the trial does it: 960 steps on all rows, a quarter of the loss that of the new label
    "W, b = W.detach().clone().requires_grad_(), b.detach().clone().requires_grad_()",
    "optimizer, new = torch.optim.Adam([W, b], lr=0.03), torch.full((len(H_new),), len(classes))",
    "for step in range(960):  # fine-tuning with replay: it needs the old examples",
    "    i = torch.randint(len(Y), (256,))",
    "    old = F.cross_entropy(F.linear(embed(H[i]), W, b), Y[i])",
    "    loss = 0.75 * old + 0.25 * F.cross_entropy(F.linear(embed(H_new), W, b), new)",
    "    optimizer.zero_grad(); loss.backward(); optimizer.step()",
]
