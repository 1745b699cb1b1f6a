"""The lines of Python that a user pastes: their own file, the method that the advice names, a new label.

Every piece runs as it stands; the tests execute each. Labels are made strings, so that a new one can have any name.
"""

from collections.abc import Mapping
from typing import Any

Trial = Mapping[str, Any]

NEW = "my new label"
TFIDF = "tf-idf"  # how the offline encoder's name begins
FEATURES = 256
RULES = {"paper": {"rule": "paper", "T": 500, "gamma": 0.01}}
WEIGHTS = "weight = len(Y) / (len(classes) * torch.bincount(Y).float())"


def paste(trial: Trial) -> str:
    """Python for the method to take: ours where it is ahead or as good, else the rival.

    Args:
        trial: the content of ``trial.json``. ``source`` says where the data are: ``{"file", "text", "label"}``, the
            file None for Python's own docstrings, the columns None for those of the default names.
    """
    side = "rival" if trial["comparison"]["verdict"] == "rival" else "ours"
    chosen = trial["choice"][side]
    method, arrival = chosen["method"], chosen["arrival"]
    rate = next((one["rate"] for one in trial["methods"] if one["name"] == method), None)
    reading = [*_reading(trial), *_new(trial)]
    if side == "ours":
        return "\n".join([*reading, *_estimator(trial, method, rate), *_layer(trial, method, rate), ""])
    if method in _SIMPLE:
        return "\n".join([*reading, *_SIMPLE[method](rate), ""])
    body = _logistic(rate) if method == "logistic" else _softmax(trial, method, rate)
    return "\n".join([*reading, *_SCALED, *body, *(_replay(method) if arrival == "replay" else []), *_ASKED, ""])


# ---- the user's data


def _reading(trial: Trial) -> list[str]:
    """``X`` [N, D] and ``y`` [N] of the user's file; ``encode`` where it holds texts."""
    source = trial.get("source") or {}
    file, text, label = (source.get(name) for name in ("file", "text", "label"))
    if file is not None and str(file).lower().endswith(".npz"):
        return [
            "import numpy as np",
            "",
            f"data = np.load({str(file)!r})",
            f'X, y = data["h"].astype("float32"), data[{label or "y"!r}].astype(str)',
        ]
    if file is None:
        read = [
            "import numpy as np",
            "from firstsight.lab.classify.data.docstrings import docstrings",
            "",
            "source = docstrings()  # the texts that every Python carries",
            "texts, y = source.texts, np.array(source.labels)",
        ]
    else:
        read = _table(str(file), text or "text", label or "label")
    return [*read, *_encoding(trial.get("data") or {})]


def _table(file: str, text: str, label: str) -> list[str]:
    kind = file.lower().rsplit(".", 1)[-1]
    if kind in ("jsonl", "ndjson"):
        module, rows = "json", f"[json.loads(line) for line in open({file!r}, encoding='utf-8-sig')]"
    else:
        tabs = ", delimiter='\\t'" if kind in ("tsv", "tab") else ""
        module, rows = "csv", f"list(csv.DictReader(open({file!r}, encoding='utf-8-sig', newline=''){tabs}))"
    return [
        f"import {module}",
        "import numpy as np",
        "",
        f"rows = {rows}",
        f"texts, y = [row[{text!r}] for row in rows], np.array([str(row[{label!r}]) for row in rows])",
    ]


def _encoding(data: Mapping[str, Any]) -> list[str]:
    """``encode``, which makes vectors of texts as the trial did, and ``X``."""
    encoder = str(data.get("encoder") or TFIDF)
    if not encoder.lower().startswith(TFIDF):
        return [
            "from sentence_transformers import SentenceTransformer",
            f"encode = SentenceTransformer({encoder!r}).encode",
            "X = encode(texts)",
        ]
    return [
        "from sklearn.decomposition import TruncatedSVD",
        "from sklearn.feature_extraction.text import TfidfVectorizer",
        "from sklearn.pipeline import make_pipeline",
        "from sklearn.preprocessing import Normalizer",
        'letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=2, sublinear_tf=True)',
        f"svd = TruncatedSVD({data.get('features') or FEATURES}, random_state=0)",
        "counted = make_pipeline(letters, svd, Normalizer()).fit([text[:2000] for text in texts])",
        'encode = lambda texts: counted.transform([text[:2000] for text in texts]).astype("float32")',
        "X = encode(texts)",
    ]


def _new(trial: Trial) -> list[str]:
    vectors = str((trial.get("source") or {}).get("file")).lower().endswith(".npz")
    if vectors:
        made = "X_new = X[:2]  # in its place the vectors of a new label's examples"
    else:
        made = 'X_new = encode(["a text of the new label", "another one of it"])  # yours'
    return [made, f'y_new = ["{NEW}"] * len(X_new)', ""]


# ---- ours


def _estimator(trial: Trial, method: str, rate: float | None) -> list[str]:
    """Nothing for what the estimator has no arguments for: then the layer alone is to be pasted."""
    settings = trial["settings"]
    if method != "sight" or settings.get("body") == "mlp":
        return []
    given: dict[str, Any] = {} if rate is None else {"learning_rate": rate}
    given |= {"epochs": settings["epochs"], "batch_size": settings["batch"], "random_state": settings["seed"]}
    arguments = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return [
        "from firstsight.estimator import FirstSightClassifier",
        "",
        f"clf = FirstSightClassifier({arguments}).fit(X, y)",
        "clf.partial_fit(X_new, y_new)  # known from now on; nothing is trained",
        "print(clf.predict(X_new))",
        'clf.save("my-classifier")  # FirstSightClassifier.load("my-classifier")',
        "",
    ]


def _layer(trial: Trial, method: str, rate: float | None) -> list[str]:
    settings = trial["settings"]
    options = "".join(f", {name}={value!r}" for name, value in RULES.get(method, {}).items())
    given = f"rate={0.03 if rate is None else rate}, epochs={settings['epochs']}, batch_size={settings['batch']}"
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
        f"print(head.topk({new}, 3))",
    ]


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
    return _again(
        "from sklearn.discriminant_analysis import LinearDiscriminantAnalysis",
        f'LinearDiscriminantAnalysis(solver="lsqr", shrinkage={shrinkage})',
    )


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
    groups = [f'{{"params": linear.parameters(), "lr": {rate or 0.03:g}}}']
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
        groups[0] = f'{{"params": [linear.weight, log_scale], "lr": {rate or 0.03:g}}}'
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
        f"steps = {settings['epochs']} * -(-len(Y) // {settings['batch']})",
        "schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)",
        f"for epoch in range({settings['epochs']}):",
        f"    for i in {batches}.split({settings['batch']}):",
        f"        loss = {loss.format(logits)}",
        "        optimizer.zero_grad(); loss.backward(); optimizer.step(); schedule.step()",
        *(["body.requires_grad_(False).eval()"] if network else []),
        after,
        *_IMPRINT,
    ]


def _replay(method: str) -> list[str]:
    """240 steps on all rows, a quarter of the loss that of the new label."""
    return [
        "W, b = W.detach().requires_grad_(), b.detach().requires_grad_()",
        "optimizer, new = torch.optim.Adam([W, b], lr=0.03), torch.full((len(H_new),), len(classes))",
        "for step in range(240):  # fine-tuning with replay",
        "    i = torch.randint(len(Y), (256,))",
        "    old = F.cross_entropy(F.linear(embed(H[i]), W, b), Y[i])",
        "    loss = 0.75 * old + 0.25 * F.cross_entropy(F.linear(embed(H_new), W, b), new)",
        "    optimizer.zero_grad(); loss.backward(); optimizer.step()",
    ]
