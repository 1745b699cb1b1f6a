"""kNN-LM and the unbounded cache against loops over tokens and pairs in float64."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_reference import KINDS, assert_nll, make_head, make_stream, pieces
from stores import build, in_pieces, plain_nll, plain_search, stored

from firstsight import InputError, NeuralCache, score_stream
from firstsight.memory import KNN, KNNGrid, UnboundedCache, UnboundedCacheGrid, unbounded
from firstsight.memory.datastore import compact, join
from firstsight.memory.datastore.keys import Keys, encode
from firstsight.memory.recalled import Window

seeds = st.integers(0, 2**31)
slow = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def plain(found, labels, target, k, temperature):
    """[N] of searches with as many neighbours or more, nearest first."""
    cut = [(order[:k], distances[:k]) for order, distances in found]
    return torch.tensor(
        [plain_nll(one, labels, int(y), temperature) for one, y in zip(cut, target, strict=True)], dtype=torch.float64
    )


def rounded(hidden, dtype="float16"):
    """As the files hold them, [N, D] float64."""
    rows = encode(hidden, dtype)
    return Keys(rows["keys"], rows.get("scales")).at(torch.arange(len(hidden)))


@slow
@given(
    seed=seeds,
    kind=st.sampled_from(KINDS),
    k=st.sampled_from([1, 5, 200]),
    temperature=st.sampled_from([0.01, 1.0, 30.0]),
    ignored=st.sampled_from([0.0, 0.3]),
    leave_out=st.booleans(),
    cuts=st.lists(st.integers(0, 40), max_size=2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_knn(tmp_path_factory, seed, kind, k, temperature, ignored, leave_out, cuts, dtype):
    hidden, label = make_stream(seed, (40,), 5, 3, kind, ignored, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        in_pieces(patch)
        store = build(tmp_path_factory.mktemp("store") / "s", hidden, label)
        if not len(store):
            return
        store.delete(entries=[0])
        if not len(store):
            return
        knn = KNN(store, k, temperature, leave_out=leave_out)
        query = hidden.to(dtype)
        nll = torch.cat([knn.nll(h, y) for h, y in pieces(query, label, cuts)])
        knn.reset()
        again = knn.nll(query, label)
    kept = label != -100
    seen = lambda q, j: j != 0 and not (leave_out and q == j)  # noqa: E731
    found = plain_search(stored(store), query[kept], k, seen)
    expected = torch.zeros(40, dtype=torch.float64)
    expected[kept] = plain(found, store.labels, label[kept], k, temperature)
    assert nll.dtype == dtype
    farthest = max((d for _, distances in found for d in distances), default=0.0)
    assert_nll(nll, expected, 1e-5 + 4e-7 * farthest / temperature)  # distances are float32
    assert torch.equal(nll, again)


@slow
@given(
    seed=seeds,
    shape=st.sampled_from([(40,), (3, 17), (1,), (0,), (2, 0)]),
    kind=st.sampled_from(KINDS),
    k=st.sampled_from([1, 5, 200]),
    temperature=st.sampled_from([0.01, 1.0, 30.0]),
    ignored=st.sampled_from([0.0, 0.3]),
    cuts=st.lists(st.integers(0, 40), max_size=2),
    dtype=st.sampled_from(["float16", "float32", "int8"]),
    chunk=st.sampled_from([1, 7, 8192]),
)
def test_unbounded_cache(tmp_path_factory, seed, shape, kind, k, temperature, ignored, cuts, dtype, chunk):
    hidden, label = make_stream(seed, shape, 5, 3, kind, ignored, dtype=torch.float32)
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        in_pieces(patch)
        patch.setattr(unbounded, "CHUNK", chunk)
        cache = UnboundedCache(k, temperature, folder=folder, dtype=dtype)
        nll = torch.cat([cache.nll(h, y) for h, y in pieces(hidden, label, cuts)], -1)
        held = len(cache)
        cache.reset()
        assert not list(folder.iterdir())
        assert torch.equal(cache.nll(hidden, label), nll)
    expected = torch.zeros(shape, dtype=torch.float64)
    h_BND, y_BN, out_BN = (x if len(shape) == 2 else x[None] for x in (hidden, label, expected))
    for h_ND, y_N, out_N in zip(h_BND, y_BN, out_BN, strict=True):
        kept = y_N != -100
        found = plain_search(rounded(h_ND[kept], dtype), h_ND[kept], k, lambda q, j: j < q)
        out_N[kept] = plain(found, y_N[kept], y_N[kept], k, temperature)
    assert held == int((y_BN != -100).sum(1).max())
    assert_nll(nll, expected, 1e-3)


def test_a_token_sees_nothing_of_what_comes(tmp_path):
    hidden, label = make_stream(1, (30,), 4, 3, dtype=torch.float32)
    other, others_label = make_stream(2, (30,), 4, 3, dtype=torch.float32)
    for cut in (0, 1, 17, 29):
        changed = torch.cat([hidden[:cut], other[cut:]]), torch.cat([label[:cut], others_label[cut:]])
        nll, another = (UnboundedCache(5).nll(*stream) for stream in ((hidden, label), changed))
        assert torch.equal(nll[:cut], another[:cut])


def test_grids_equal_their_points(tmp_path):
    ks, temperatures = [10, 1, 3, 500], [0.1, 20.0, 1.0]
    hidden, label = make_stream(5, (2, 40), 5, 3, ignored=0.2, dtype=torch.float32)
    store = build(tmp_path / "s", *make_stream(6, (90,), 5, 3, dtype=torch.float32))
    grid, cache = KNNGrid(store, ks, temperatures), UnboundedCacheGrid(ks, temperatures)
    nll, cached = grid.nll(hidden, label), cache.nll(hidden, label)
    assert nll.shape == cached.shape == (4, 3, 2, 40)
    for s, k in enumerate(ks):
        for t, temperature in enumerate(temperatures):
            assert_nll(nll[s, t], KNN(store, k, temperature).nll(hidden, label).double(), 1e-6)
            assert_nll(cached[s, t], UnboundedCache(k, temperature).nll(hidden, label).double(), 1e-6)


def test_probabilities_sum_to_one(tmp_path):
    store = build(tmp_path / "s", *make_stream(6, (90,), 5, 3, dtype=torch.float32))
    cache, held = UnboundedCache(7, 0.5), make_stream(7, (20,), 5, 3, dtype=torch.float32)
    hidden, classes = torch.randn(3), torch.arange(5)
    knn = KNN(store, 7, 0.5).nll(hidden.expand(5, 3), classes)
    cache.remember(*held)
    each = []
    for y in classes:
        cache = UnboundedCache(7, 0.5)
        cache.remember(*held)
        each.append(cache.nll(hidden[None], y[None]))
    for nll in (knn, torch.cat(each)):
        assert math.isclose(float((-nll).exp().sum()), 1, rel_tol=1e-5)


def test_a_far_neighbour_keeps_its_place(tmp_path):
    """Its share is far below the smallest float64, and its NLL is still finite and right."""
    hidden = torch.tensor([[0.0, 0.0], [300.0, 0.0]])
    store = build(tmp_path / "s", hidden, torch.tensor([1, 2]))
    nll = KNN(store, 2).nll(torch.zeros(3, 2), torch.tensor([1, 2, 3]))
    assert nll.tolist() == [0, 90_000, math.inf]


def test_leaving_out_follows_the_text(tmp_path):
    hidden, label = make_stream(5, (60,), 5, 3, ignored=0.2, dtype=torch.float32)
    store = build(tmp_path / "s", hidden, label)
    knn = KNN(store, 1, leave_out=True)
    whole = knn.nll(hidden, label)
    assert knn.position == int((label != -100).sum())
    with pytest.raises(InputError, match="for the text that was stored"):
        knn.nll(hidden, label)
    knn.reset()
    knn.seek(int((label[:20] != -100).sum()))
    knn.read(None, hidden[20:30], label[20:30], score=False)
    assert torch.equal(knn.nll(hidden[30:], label[30:]), whole[30:])
    with_itself = KNN(store, 1).nll(hidden, label)
    assert with_itself.eq(0).all()
    assert not torch.equal(with_itself, whole)
    for made in (compact(store, tmp_path / "c"), join([store, store], tmp_path / "j", {})):
        with pytest.raises(InputError, match=r"compacted|joined"):
            KNN(made, leave_out=True)


def test_what_they_refuse(tmp_path):
    store = build(tmp_path / "s", *make_stream(6, (90,), 5, 3, dtype=torch.float32))
    none = build(tmp_path / "none", torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    for make, said in [
        (lambda: KNN(store, 0), "k is 0"),
        (lambda: KNN(store, 3, 0.0), r"temperature is 0\.0"),
        (lambda: KNN(store, 3, math.nan), "temperature is nan"),
        (lambda: KNNGrid(store, [], [1.0]), r"ks is \[\]"),
        (lambda: KNN(none), "no entries"),
        (lambda: KNN(store, approximate=True), "no index"),
        (lambda: UnboundedCache(0), "k is 0"),
        (lambda: UnboundedCache(temperature=-1), "temperature is -1"),
    ]:
        with pytest.raises(InputError, match=said):
            make()
    cache = UnboundedCache(3)
    cache.remember(*make_stream(7, (2, 9), 5, 3, dtype=torch.float32))
    for memory in (KNN(store, 3), cache):
        for shape, width, said in [((2, 9), 4, "4.*3|another model"), ((9, 9, 9), 3, "9, 9, 9, 3")]:
            hidden, label = make_stream(7, shape, 5, width, dtype=torch.float32)
            with pytest.raises(InputError, match=said):
                memory.nll(hidden, label)
    with pytest.raises(InputError, match=r"3 streams.*holds 2"):
        cache.nll(*make_stream(7, (3, 9), 5, 3, dtype=torch.float32))
    with pytest.raises(InputError, match="65504"):
        cache.nll(torch.full((2, 1, 3), 1e5), torch.zeros(2, 1, dtype=torch.int64))
    assert len(cache) == 9


def test_in_a_mixture(tmp_path):
    hidden, label = make_stream(7, (2, 9), 5, 3, dtype=torch.float32)
    store = build(tmp_path / "s", *make_stream(6, (90,), 5, 3, dtype=torch.float32))
    head = make_head(0, 5, 3, dtype=torch.float32)
    memories = {KNN(store, 9): 0.2, UnboundedCache(9): 0.1}
    nll = score_stream(head, hidden, label, cache=NeuralCache(), memories=memories)
    assert torch.isfinite(nll).all()
    assert (nll[:, 0] < -math.log(0.2) + KNN(store, 9).nll(hidden, label)[:, 0]).all()


def test_documents_of_a_cache():
    hidden, label = make_stream(7, (30,), 5, 3, dtype=torch.float32)
    apart, together = UnboundedCache(9, by_document=True), UnboundedCache(9)
    for cache in (apart, together):
        cache.remember(hidden[:20], label[:20])
        cache.new_document()
    assert bool(apart.empty(hidden))
    assert not bool(together.empty(hidden))
    assert torch.equal(apart.nll(hidden[20:], label[20:]), UnboundedCache(9).nll(hidden[20:], label[20:]))
    assert torch.equal(together.nll(hidden[20:], label[20:]), UnboundedCache(9).nll(hidden, label)[20:])


def test_the_files_of_a_cache_go_with_it(tmp_path):
    cache = UnboundedCache(9, folder=tmp_path)
    cache.remember(*make_stream(7, (30,), 5, 3, dtype=torch.float32))
    (folder,) = tmp_path.iterdir()
    assert (Path(folder) / "0" / "keys.bin").stat().st_size == 4096 + 30 * 3 * 2
    del cache
    assert not list(tmp_path.iterdir())


def test_what_a_cache_recalls():
    hidden, _ = make_stream(7, (12,), 5, 3, dtype=torch.float32)
    cache = UnboundedCache(4, 0.7)
    ago = torch.arange(1, 12).expand(1, 11)
    recalled = cache.recalled(hidden[11:], Window(hidden[:11].flip(0), torch.arange(11).flip(0), ago), 3)
    ((order, distances),) = plain_search(hidden[:11].double(), hidden[11:], 4)
    weights = torch.tensor([-d / 0.7 for d in distances]).softmax(0)
    assert recalled.place_QK[0].tolist() == [11 - j for j in order[:3]]
    assert recalled.label_QK[0].tolist() == order[:3]
    torch.testing.assert_close(recalled.share_QK[0], weights[:3].float(), atol=1e-4, rtol=0)
    squared_K = recalled.distance_QK[0].double() ** 2
    torch.testing.assert_close(squared_K, torch.tensor(distances[:3]).double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("leave_out", [False, True])
def test_what_a_store_recalls(tmp_path, leave_out):
    """Entries, the share of each among all k, and the labels that most weight is on."""
    hidden, label = make_stream(8, (40,), 5, 4, dtype=torch.float32)
    label = label.clamp(min=0)
    store = build(tmp_path / "s", hidden, label)
    knn = KNN(store, 6, 0.9, leave_out=leave_out)
    knn.seek(10)
    window = Window(hidden[:0], label[:0], torch.empty(12, 0, dtype=torch.int64))
    recalled = knn.recalled(hidden[10:22].double(), window, 3)
    keys = store.keys.at(torch.arange(40)).double()
    for q in range(12):
        squared = ((keys - hidden[10 + q].double()) ** 2).sum(1)
        if leave_out:
            squared[10 + q] = math.inf
        near = sorted(range(40), key=lambda j, d=squared: (float(d[j]), -j))[:6]
        share = torch.tensor([-float(squared[j]) / 0.9 for j in near], dtype=torch.float64).softmax(0)
        assert recalled.place_QK[q].tolist() == near[:3]
        assert recalled.label_QK[q].tolist() == label[near[:3]].tolist()
        torch.testing.assert_close(recalled.share_QK[q], share[:3], atol=1e-6, rtol=0)
        votes = {
            y: sum(float(s) for s, j in zip(share, near, strict=True) if label[j] == y) for y in set(label.tolist())
        }
        assert float(recalled.vote_QG[q, 0]) == pytest.approx(max(votes.values()), abs=1e-6)
    assert knn.position == 22
