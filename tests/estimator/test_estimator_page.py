"""The page's example runs, and finds what it shows."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "estimator.md"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, indexed = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(code, names)
    clf, X, y, known = names["clf"], names["X"][1200:], names["y"][1200:], names["known"]
    assert clf.classes_.tolist() == list(range(10))
    assert clf.score(X[known], y[known]) > 0.9
    assert clf.score(X[~known], y[~known]) > 0.5
    exec(indexed, names)
    index = names["index"]
    assert index.recall > 0.9
    assert index.predict(X[:1]).tolist() == clf.predict(X[:1]).tolist()
    assert 1000 in clf.classes_
