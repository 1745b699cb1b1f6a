"""Kept in a file or a pickle, and back: to the bit, or refused."""

import copy
import os
import pickle
import signal
import stat
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from clusters_of_names import NAMES, NEW, OLD
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from firstsight import HebbianSoftmax, InputError
from firstsight.estimator import FirstSightClassifier


def saved(found, tmp_path):
    found.save(tmp_path / "a")
    return FirstSightClassifier.load(tmp_path / "a")


def joblibbed(found, tmp_path):
    joblib.dump(found, tmp_path / "a")
    return joblib.load(tmp_path / "a")


def pickled(found, _):
    return pickle.loads(pickle.dumps(found))


@pytest.mark.parametrize("keep", [saved, joblibbed, pickled])
@pytest.mark.parametrize("later", [False, True])
def test_back_to_the_bit_and_on_from_there(trained, clusters, tmp_path, keep, later):
    if later:  # with spare rows, a look, and classes in another order than their rows
        trained.partial_fit(*clusters(1, [7]), classes=["declared"]).partial_fit(*clusters(2, [1, 3]))
    trained.set_unknown_threshold(clusters(3, OLD)[0])
    again = keep(trained, tmp_path)
    X, y = clusters(2, NEW)
    for _ in range(2):
        assert again.classes_.tolist() == trained.classes_.tolist()
        assert again.get_params() == trained.get_params()
        for name in ("n_iter_", "n_features_in_", "unknown_threshold_"):
            assert getattr(again, name) == getattr(trained, name)
        for method in ("predict_proba", "unknown_score", "is_known"):
            assert (getattr(again, method)(X) == getattr(trained, method)(X)).all()
        again.partial_fit(X, y)
        trained.partial_fit(X, y)
    for one in (again, trained):
        one.set_params(warm_start=True, least_steps=20).fit(*clusters(1))
    assert again.classes_.tolist() == trained.classes_.tolist()


@pytest.mark.parametrize("labels", [[-3, 5, 2**40], [True, False], ["", "ä\n\0", "b" * 400], [0.0, 1.0, -2.0]])
@pytest.mark.parametrize("class_weight", [None, "balanced", "dict"])
def test_labels_and_settings_of_every_kind_are_kept(tmp_path, labels, class_weight):
    weight = {label: 1.0 + i for i, label in enumerate(labels)} if class_weight == "dict" else class_weight
    found = FirstSightClassifier(least_steps=10, class_weight=weight, random_state=np.int64(3), learning_rate=0.1)
    again = saved(found.fit(np.eye(3)[: len(labels)], labels), tmp_path)
    assert again.classes_.tolist() == found.classes_.tolist() == sorted(labels)
    assert again.classes_.dtype == found.classes_.dtype
    assert again.get_params() == found.get_params()
    with pytest.raises(InputError, match="generator"):
        found.set_params(random_state=np.random.RandomState(1)).save(tmp_path / "a")
    assert FirstSightClassifier.load(tmp_path / "a").random_state == 3


def test_what_is_forgotten_is_in_no_file(trained, clusters, tmp_path):
    trained.partial_fit(clusters(1, [3])[0], ["a very private label"])
    row = trained._rows.head.weight[10].detach().numpy().tobytes()
    trained.save(tmp_path / "a")
    assert b"a very private label" in (tmp_path / "a").read_bytes()
    assert row in (tmp_path / "a").read_bytes()
    trained.forget("a very private label").save(tmp_path / "a")
    for content in ((tmp_path / "a").read_bytes(), pickle.dumps(trained)):
        assert b"very private" not in content
        assert row not in content


@pytest.mark.parametrize("several", [False, True])
def test_what_is_forgotten_is_in_no_setting(clusters, tmp_path, several):
    X, y = clusters(3, [0, 2, 4])
    y[:3] = "a very private label"
    given = {"a very private label": 2.0, NAMES[2]: 3.0, "yet to come": 4.0}
    found = FirstSightClassifier(random_state=0, least_steps=10, class_weight=given).fit(X, y)
    found.save(tmp_path / "a")
    assert b"very private" in (tmp_path / "a").read_bytes()
    found.forget(np.array(["a very private label"]) if several else "a very private label").save(tmp_path / "a")
    for content in ((tmp_path / "a").read_bytes(), pickle.dumps(found)):
        assert b"very private" not in content
        assert b"yet to come" in content
    assert found.class_weight == {NAMES[2]: 3.0, "yet to come": 4.0}
    assert len(given) == 3  # which is the user's
    with pytest.raises(InputError):
        found.forget([NAMES[2], "nobody"])
    assert NAMES[2] in found.class_weight


def test_spare_rows_are_in_no_file(trained, tmp_path):
    trained.save(tmp_path / "a")
    trained._rows.room_for(5000)
    trained.save(tmp_path / "b")
    few, many = load_file(tmp_path / "a"), load_file(tmp_path / "b")
    assert few.keys() == many.keys()
    assert all(torch.equal(value, many[name]) for name, value in few.items())


def test_a_kill_in_the_middle_leaves_the_old_file(trained, clusters, tmp_path):
    trained.save(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    script = f"""
import os, signal
from firstsight.estimator import FirstSightClassifier, stored
found = FirstSightClassifier.load({str(tmp_path / "a")!r}).forget("class 00")
whole = stored.save_file
def half(tensors, path, head):
    whole(tensors, path, head)
    os.truncate(path, os.path.getsize(path) // 2)
    os.kill(os.getpid(), signal.SIGKILL)
stored.save_file = half
found.save({str(tmp_path / "a")!r})
"""
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_bytes() == before
    assert FirstSightClassifier.load(tmp_path / "a").classes_.tolist() == NAMES[OLD].tolist()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_named_and_refused(trained, tmp_path, data):
    trained.save(tmp_path / "good")
    content = bytearray((tmp_path / "good").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "bad.file").write_bytes(content)
    refused = None
    try:
        again = FirstSightClassifier.load(tmp_path / "bad.file")
    except InputError as error:
        refused = str(error)
    if refused is None:  # a blank of the header that nothing hangs on
        assert (again._rows.head.weight == trained._rows.head.weight).all()
        assert again.classes_.tolist() == trained.classes_.tolist()
    else:
        assert "bad.file" in refused


def test_other_files_are_refused(trained, tmp_path):
    with pytest.raises(InputError, match=r"nowhere: there is no such file"):
        FirstSightClassifier.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="this is a folder; expected the name of a file"):
        FirstSightClassifier.load(tmp_path)
    save_file(HebbianSoftmax(3, 4).state_dict(), tmp_path / "head")
    with pytest.raises(InputError, match="head holds tensors, but no FirstSightClassifier"):
        FirstSightClassifier.load(tmp_path / "head")
    (tmp_path / "pickle").write_bytes(pickle.dumps(trained))
    with pytest.raises(InputError, match="pickle is damaged, or no file"):
        FirstSightClassifier.load(tmp_path / "pickle")
    trained.save(tmp_path / "good")
    save_file(
        load_file(tmp_path / "good"), tmp_path / "new", {"format": "firstsight.FirstSightClassifier", "version": "3"}
    )
    with pytest.raises(InputError, match="new is of layout 3, of a newer firstsight"):
        FirstSightClassifier.load(tmp_path / "new")


def test_a_pipe_is_not_waited_for_and_a_device_not_replaced(trained, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: this is a pipe; expected the name of a file"):
        FirstSightClassifier.load(tmp_path / "pipe")
    for place, kind in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder"), ("/dev/null", "a device")):
        with pytest.raises(InputError, match=f"this is .*{kind}"):
            trained.save(place)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("change", ["fewer rows", "more labels", "no json", "nan"])
def test_parts_that_do_not_fit_are_refused_whatever_the_checksum_says(trained, tmp_path, change, monkeypatch):
    from firstsight.estimator import stored

    whole = stored._write

    def other(path, tensors, head):
        if change == "fewer rows":
            tensors["rows"] = tensors["rows"][1:]
        elif change == "more labels":
            tensors["rows"] = torch.cat([tensors["rows"], torch.tensor([10])])
        elif change == "no json":
            del tensors["json"]
        else:
            tensors["head.counts"] = -tensors["head.counts"]
        whole(path, tensors, head | {"sha256": stored._checksum(tensors)})

    monkeypatch.setattr(stored, "_write", other)
    trained.save(tmp_path / "bad.file")
    with pytest.raises(InputError, match=r"bad\.file"):
        FirstSightClassifier.load(tmp_path / "bad.file")


def test_a_copy_learns_by_itself(trained, clusters):
    other = copy.deepcopy(trained).partial_fit(*clusters(1, NEW))
    assert len(other.classes_) == 20
    assert len(trained.classes_) == 10
