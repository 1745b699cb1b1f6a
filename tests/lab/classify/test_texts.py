import builtins
import shutil

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from tiny_encoder import make_encoder

from firstsight.errors import InputError
from firstsight.lab.classify.data import texts
from firstsight.lab.classify.data.texts import LETTERS, counted, encode, encoder_key, load_encoder

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "omega"]


def sentences(n, seed=0):
    g = np.random.default_rng(seed)
    return [" ".join(g.choice(WORDS, 6)) for _ in range(n)]


def test_counted_vectors_have_unit_length_and_the_same_each_time():
    rows = [*sentences(120), "", "éé 漢字", "x" * 3]
    h_ND = counted(rows, np.arange(100))
    assert h_ND.dtype == np.float32
    assert len(h_ND) == 123
    np.testing.assert_allclose(np.linalg.norm(h_ND[:120], axis=1), 1, rtol=1e-5)
    assert not h_ND[120:].any()  # nothing in common with what trains
    np.testing.assert_array_equal(h_ND, counted(rows, np.arange(100)))


def test_nothing_is_learnt_from_rows_that_do_not_train():
    rows, train = sentences(300), np.arange(0, 200)
    h_ND = counted(rows, train)
    others = counted(rows[:250] + ["other words altogether"] * 50, train)
    np.testing.assert_array_equal(h_ND[:250], others[:250])
    assert not np.array_equal(h_ND[:250], counted(rows, np.arange(50, 250))[:250])


def test_of_many_training_texts_some_are_learnt_from(monkeypatch):
    monkeypatch.setattr(texts, "FITTED", 50)
    rows = sentences(300)
    h_ND = counted(rows, np.arange(0, 200))
    np.testing.assert_array_equal(h_ND, counted(rows, np.linspace(0, 199, 50).astype(int)))


def test_like_texts_are_near():
    h_ND = counted([*sentences(200), "alphabetical gammas", "gamma alphabet", "omegas zetas"], np.arange(200))
    assert h_ND[200] @ h_ND[201] > 0.5 > h_ND[200] @ h_ND[202]


def test_long_texts_are_cut():
    rows = sentences(100)
    long = [*rows, "alpha " * LETTERS, "alpha " * (LETTERS // 6 + 1) + "omega " * 50]
    h_ND = counted(long, np.arange(100))
    np.testing.assert_allclose(h_ND[100], h_ND[101], atol=0.02)


def test_texts_without_letters():
    with pytest.raises(InputError, match="cannot be counted"):
        counted(["", " ", "a", "b"], np.arange(4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"), WORDS)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read from the environment on import


def test_an_encoder_block_by_block(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "BLOCK", 32)
    model, rows = load_encoder(str(folder)), sentences(100)
    h_ND = np.concatenate(list(encode(rows, model, tmp_path)))
    expected = np.concatenate([model.encode([row]) for row in rows])
    assert h_ND.shape == (100, 8)
    np.testing.assert_allclose(h_ND, expected, rtol=1e-4, atol=1e-5)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"{i:09d}.npz" for i in (0, 32, 64, 96)]


def test_a_killed_encoding_goes_on(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(texts, "BLOCK", 32)
    model, rows = load_encoder(str(folder)), sentences(100)
    whole = list(encode(rows, model, tmp_path / "whole"))
    begun = encode(rows, model, tmp_path / "begun")
    next(begun), next(begun)
    begun.close()
    (tmp_path / "begun" / f"{0:09d}.npz").write_bytes(b"PK damaged")
    asked = []
    encoded = model.encode
    monkeypatch.setattr(model, "encode", lambda block, **options: asked.append(len(block)) or encoded(block, **options))
    again = list(encode(rows, model, tmp_path / "begun"))
    assert asked == [32, 32, 4]
    np.testing.assert_array_equal(np.concatenate(whole), np.concatenate(again))
    assert "this block of vectors is damaged" in capsys.readouterr().err.replace("\n", " ")


def test_an_encoder_that_gives_nan(folder, tmp_path):
    model = load_encoder(str(folder))
    with torch.no_grad():
        model[0].auto_model.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="or NaN"):
        list(encode(sentences(3), model, tmp_path))
    assert not list(tmp_path.iterdir())


def test_an_encoder_is_known_by_its_files(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "moved")
    assert encoder_key(str(folder)) == encoder_key(str(copy))
    assert encoder_key("org/name") == {"name": "org/name"}
    (copy / "config.json").write_text("{}")
    assert encoder_key(str(folder)) != encoder_key(str(copy))


def test_encoders_that_do_not_load(folder, tmp_path, monkeypatch):
    for name in ("no-such/encoder", str(tmp_path)):
        with pytest.raises(InputError, match=r"this encoder does not load .* Expected the folder of a") as told:
            load_encoder(name)
        assert "\n" not in str(told.value)
    for name in ("/no/such", "./encoder", "no/such/encoder"):
        with pytest.raises(InputError, match=r"there is no such folder\."):
            load_encoder(name)
    broken = make_encoder(tmp_path / "broken", WORDS)
    (broken / "model.safetensors").write_bytes(b"none")
    with pytest.raises(InputError, match="does not load"):
        load_encoder(str(broken))
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "sentence_transformers":
            raise ImportError("No module named sentence_transformers")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install sentence-transformers"):
        load_encoder(str(folder))
