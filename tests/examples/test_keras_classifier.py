from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "examples" / "keras_classifier.py"


def test_it_learns_in_a_few_steps():
    # Keras' backend is one for a process; pytest's has another.
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": str(PATH.parents[1] / "src")}
    result = subprocess.run(
        [sys.executable, PATH, "2", "512"], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert float(re.search(r"torch: accuracy ([\d.]+)", result.stdout)[1]) > 0.7
    assert "Il pleut." in result.stdout
