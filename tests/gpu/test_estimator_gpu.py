"""The classifier on a CUDA device: it finds what it finds on the CPU, and its file goes from one to the other."""

import numpy as np
import pytest
import torch

from firstsight.estimator import FirstSightClassifier

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_trained_on_the_device_shown_more_kept_and_read_on_the_cpu(tmp_path):
    g = np.random.default_rng(0)
    centres = g.normal(size=(30, 24))
    y = np.repeat(np.arange(30), 20)
    X = centres[y] + 0.5 * g.normal(size=(600, 24))
    old = y < 25
    found = FirstSightClassifier(device="cuda", random_state=0, class_weight="balanced").fit(X[old], y[old])
    found.partial_fit(X[~old][::5], y[~old][::5], sample_weight=np.linspace(1, 2, 20)).forget([3, 27])
    found.set_unknown_threshold(X[old][y[old] != 3])
    kept = ~np.isin(y, [3, 27])
    assert found._rows.device.type == "cuda"
    assert found.score(X[kept], y[kept]) > 0.9
    found.save(tmp_path / "a")
    for device in ("cpu", "cuda"):
        again = FirstSightClassifier.load(tmp_path / "a", device=device)
        assert again._rows.device.type == device
        assert np.allclose(again.predict_proba(X), found.predict_proba(X), atol=1e-3)
        again.partial_fit(X[y == 3][:2], [3, 3])
        assert again.score(X[y == 3], y[y == 3]) > 0.5
