"""The service of examples/serving over HTTP: what it acknowledged outlives a kill, and a wrong key does nothing."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from firstsight.estimator import FirstSightClassifier

APP, KEY = Path(__file__).resolve().parent.parent / "examples" / "serving", "a key"
CENTRES = 4 * np.random.default_rng(0).normal(size=(30, 16))
OLD, CLIENTS, REQUESTS = 10, 8, 2000


class Service:
    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self):
        about = {"FIRSTSIGHT_KEY": KEY, "FIRSTSIGHT_MODEL": str(self.folder / "model.safetensors")}
        command = [sys.executable, "-m", "uvicorn", "app:app", "--app-dir", str(APP), "--port", str(self.port)]
        environment = {**os.environ, **about, "OMP_NUM_THREADS": "1"}
        with open(self.folder / "log.txt", "ab") as log:
            self.process = subprocess.Popen([*command, "--log-level", "warning"], env=environment, stderr=log)
        for _ in range(600):
            assert self.process.poll() is None, (self.folder / "log.txt").read_text()
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the service does not start")

    def end(self, number):
        self.process.send_signal(number)
        self.process.wait(30)

    def ask(self, path, body, key=KEY):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", "X-Key": key})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture
def service(tmp_path):
    y = np.repeat(np.arange(OLD), 30)
    X = CENTRES[y] + np.random.default_rng(1).normal(size=(len(y), 16))
    FirstSightClassifier(random_state=0).fit(X, [f"class {i}" for i in y]).save(tmp_path / "model.safetensors")
    running = Service(tmp_path)
    yield running
    running.end(signal.SIGKILL)


def test_what_was_acknowledged_outlives_a_kill(service):
    """8 clients, 2,000 requests, one in ten teaches a label of its own; killed half-way, then started again."""
    acknowledged, failed, answered = [], [], [0]
    halfway, back = threading.Event(), threading.Event()
    guard = threading.Lock()

    def client(number):
        draw = random.Random(number)
        for i in range(REQUESTS // CLIENTS):
            centre = CENTRES[draw.randrange(len(CENTRES))] + np.array([draw.gauss(0, 1) for _ in range(16)])
            label = f"label {number}-{i}"
            teaches = draw.random() < 0.1
            body = {"vectors": [centre.tolist()]} | ({"labels": [label]} if teaches else {})
            try:
                status, answer = service.ask("/learn" if teaches else "/predict", body)
            except (OSError, http.client.HTTPException, ValueError):
                failed.append(label)
                assert back.wait(120)
                continue
            assert status == 200, answer
            with guard:
                answered[0] += 1
                if teaches:
                    acknowledged.append((label, centre.tolist()))
                if answered[0] == REQUESTS // 2:
                    halfway.set()

    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for one in clients:
        one.start()
    assert halfway.wait(240)
    service.end(signal.SIGKILL)
    before = len(acknowledged)
    service.start()
    back.set()
    for one in clients:
        one.join()
    assert 30 < before < len(acknowledged), "taught before the kill, and after it"
    assert len(failed) <= CLIENTS, "one a client: the one that the kill cut off"
    service.end(signal.SIGKILL)
    service.start()
    status, answer = service.ask("/predict", {"vectors": [CENTRES[0].tolist()], "k": 1})
    assert (status, len(answer["labels"][0])) == (200, 1)
    known = {json.loads(line)["labels"][0] for line in (service.folder / "model.journal").read_bytes().splitlines()}
    assert known >= {label for label, _ in acknowledged}
    status, answer = service.ask("/predict", {"vectors": [CENTRES[0].tolist()], "k": OLD + len(known)})
    assert set(answer["labels"][0]) == known | {f"class {i}" for i in range(OLD)}


def test_a_key_is_needed_and_nothing_else_changes_anything(service):
    query = {"vectors": [CENTRES[20].tolist()], "k": 1}
    lesson = {"vectors": [CENTRES[20].tolist()], "labels": ["new"]}
    journal = service.folder / "model.journal"
    for key in ("", "another key", "é".encode().decode("latin1")):
        assert service.ask("/learn", lesson, key)[0] == 401
        assert service.ask("/predict", query, key)[0] == 401
    status, answer = service.ask("/learn", {"vectors": [[1.0, 2.0]], "labels": ["new"]})
    assert status == 422
    assert "2" in answer["detail"]
    assert service.ask("/forget", {"labels": ["nobody"]})[0] == 422
    assert journal.read_bytes() == b""
    assert service.ask("/predict", query)[1]["labels"] != [["new"]]
    assert service.ask("/learn", lesson) == (200, {"classes": OLD + 1})
    assert service.ask("/predict", query)[1]["labels"] == [["new"]]
    assert service.ask("/forget", {"labels": ["class 3"]}) == (200, {"classes": OLD})
    with open(journal, "ab") as file:  # as a kill leaves a line
        file.write(b'{"learn": [[1.0')
    service.end(signal.SIGKILL)
    service.start()
    assert service.ask("/predict", query)[1]["labels"] == [["new"]]
    assert service.ask("/learn", lesson | {"labels": ["newer"]}) == (200, {"classes": OLD + 1})
    service.end(signal.SIGTERM)
    service.start()
    labels = service.ask("/predict", query | {"k": OLD + 1})[1]["labels"][0]
    assert {"new", "newer"} < set(labels)
    assert "class 3" not in labels
