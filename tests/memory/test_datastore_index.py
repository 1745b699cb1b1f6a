"""Approximate search: what it finds, what it must not, and which index is refused."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from stores import ABOUT, build

from firstsight import InputError
from firstsight.memory import KNN, Datastore, UnboundedCache, unbounded
from firstsight.memory.datastore import compact, index

KINDS = ["ivf", "ivfpq", "hnsw"]


def clusters(n, d=8, seed=0, groups=40):
    """Activations around some centres, and the labels 0 to 4."""
    g = torch.Generator().manual_seed(seed)
    centre = 3 * torch.randn(groups, d, generator=torch.Generator().manual_seed(9))
    hidden = centre[torch.randint(groups, (n,), generator=g)] + torch.randn(n, d, generator=g)
    return hidden, torch.randint(5, (n,), generator=g)


@pytest.fixture
def store(tmp_path):
    return build(tmp_path / "s", *clusters(3000), starts=range(0, 3000, 100), step=1000)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_is_measured_and_stored(store, kind):
    query, _ = clusters(50, seed=1)
    made = store.build_index(kind, lists=16, probes=8, k=20, query=query)
    assert 0.6 < made.recall <= 1
    opened = Datastore.open(store.path, ABOUT)
    assert [getattr(opened.index, name) for name in ("kind", "probes", "k", "queries", "recall")] == [
        *(kind, 8, 20, 50),
        made.recall,
    ]
    exact_QK, (squared_QK, found_QK) = opened.search(query, 20)[1], opened.search(query, 20, approximate=True)
    there = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(exact_QK, found_QK, strict=True)]
    assert sum(there) / exact_QK.numel() == pytest.approx(made.recall)
    assert index.recall(opened, query, 20) == pytest.approx(made.recall)
    distance_QK = (store.keys.at(found_QK.reshape(-1)).view(50, 20, -1) - query[:, None]).square().sum(-1)
    assert torch.allclose(squared_QK, distance_QK.float(), rtol=1e-6)
    assert (squared_QK.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("approximate", [False, True])
@pytest.mark.parametrize("what", [{"document": 7}, {"label": 2}, {"entries": range(0, 3000, 3)}])
def test_what_was_deleted_never_comes_back(store, kind, approximate, what, tmp_path):
    store.build_index(kind, lists=16, probes=16, k=20)
    before = store.search(clusters(50, seed=1)[0], 20, approximate=approximate)[1]
    assert store.delete(**what) > 0
    gone = np.flatnonzero(store.deleted())
    query = torch.cat([store.keys.at(torch.from_numpy(gone[:60])).float(), clusters(50, seed=1)[0]])
    for one in (store, Datastore.open(store.path)):
        found_QK = one.search(query, 20, approximate=approximate)[1]
        assert not np.isin(found_QK.numpy(), gone).any()
        assert found_QK.min() >= 0
    assert np.isin(before.numpy(), gone).any()
    small = compact(store, tmp_path / "c")
    small.build_index(kind, lists=16, probes=16, k=20)
    kept = np.flatnonzero(~store.deleted())
    found_QK = small.search(query, 20, approximate=approximate)[1]
    assert not np.isin(kept[found_QK.numpy()], gone).any()
    if not approximate:
        assert np.array_equal(kept[found_QK.numpy()], store.search(query, 20)[1].numpy())


def test_leaving_out_and_more_than_there_is(store):
    store.build_index(lists=4, probes=4, k=20)
    own = torch.arange(50)
    query = store.keys.at(own).float()
    assert torch.equal(store.search(query, 1, approximate=True)[1][:, 0], own)
    found_QK = store.search(query, 20, exclude=own, approximate=True)[1]
    assert torch.equal(found_QK, store.search(query, 20, exclude=own)[1])
    store.delete(entries=range(5, 3000))
    squared_QK, index_QK = store.search(query, 20, approximate=True)
    assert index_QK[:, 5:].eq(-1).all()
    assert squared_QK[:, 5:].isinf().all()
    assert torch.equal(index_QK, store.search(query, 20)[1])


def test_knn_of_an_index(store):
    store.build_index(lists=16, probes=16, k=20)
    hidden, label = clusters(60, seed=1)
    assert torch.equal(KNN(store, 20, approximate=True).nll(hidden, label), KNN(store, 20).nll(hidden, label))


def test_an_unbounded_cache_with_an_index(monkeypatch):
    """It finds nearly all, and what it finds does not depend on where calls end."""
    monkeypatch.setattr(unbounded, "CHUNK", 256)
    monkeypatch.setattr(unbounded, "_LEARNT", 512)
    hidden, label = clusters(3000)
    exact = UnboundedCache(20).nll(hidden, label)
    cache = UnboundedCache(20, approximate=True)
    nll = cache.nll(hidden, label)
    finite = exact.isfinite() & nll.isfinite()
    assert finite.sum() > 0.95 * exact.isfinite().sum()
    assert (nll[finite] - exact[finite]).abs().mean() < 0.05
    assert torch.equal(nll[:512], exact[:512])
    assert not torch.equal(nll, exact)
    cache.reset()
    pieces = [cache.nll(hidden[a:b], label[a:b]) for a, b in ((0, 700), (700, 701), (701, 3000))]
    assert torch.equal(torch.cat(pieces), nll)


def test_an_index_of_other_keys_or_damaged_is_refused(store, tmp_path):
    store.build_index("ivf", lists=16, k=20)
    other = build(tmp_path / "o", *clusters(3000, seed=4), step=1000)
    for name in ("index.json", "index.faiss"):
        shutil.copy(store.path / name, other.path / name)
    with pytest.raises(InputError, match=r"index\.json.*another store"):
        Datastore.open(other.path)
    for name in ("index.json", "index.faiss"):
        whole = (store.path / name).read_bytes()
        for damaged in (whole[:-9], bytes([*whole[:70], whole[70] ^ 1, *whole[71:]])):
            (store.path / name).write_bytes(damaged)
            with pytest.raises(InputError, match=name.replace(".", r"\.")):
                Datastore.open(store.path)
        (store.path / name).write_bytes(whole)
    (store.path / "index.faiss").unlink()
    with pytest.raises(InputError, match=r"index\.faiss.*missing"):
        Datastore.open(store.path)
    (store.path / "index.json").unlink()
    assert Datastore.open(store.path).index is None


def test_what_an_index_refuses(store, tmp_path):
    for asked, said in [
        ({"kind": "flat"}, "kind is 'flat'.*ivf, ivfpq, hnsw"),
        ({"lists": 0}, "lists is 0"),
        ({"probes": 0}, "probes is 0"),
        ({"k": 0}, "k is 0"),
    ]:
        with pytest.raises(InputError, match=said):
            store.build_index(**asked)
    small = build(tmp_path / "small", *clusters(20))
    with pytest.raises(InputError, match=r"20 entries.*ivfpq needs"):
        small.build_index("ivfpq")
    assert small.build_index("ivf").recall == 1


def test_without_faiss_the_message_says_what_to_install():
    script = (
        "import sys; sys.modules['faiss'] = None\n"
        "from firstsight.memory import UnboundedCache\n"
        "from firstsight import InputError\n"
        "UnboundedCache()\n"
        "try: UnboundedCache(approximate=True)\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'firstsight[faiss]'" in done.stdout
