"""A short campaign, in a process of its own: what is damaged is named, and nothing else is made of it in silence."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"silent": 0, "tracebacks": 0, "hangs": 0, "lost": 0, "unnamed": 0, "left": 0}


def test_three_hundred_cases(tmp_path):
    command = [sys.executable, "-m", "tests.campaign", "--cases=300", "--seed=7", "--quick", "--workers=1"]
    command.append(f"--out={tmp_path}")
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "campaign.json").read_text())
    assert told["total"]["cases"] == 300
    assert told["found"] == []
    assert {kind: told["total"][kind] for kind in COUNTS} == COUNTS
