"""What a folder of transformers is taken for."""

import json
import sys

import pytest

from wsis_d2.errors import UserError
from wsis_d2.weights.mask2former import is_mask2former, read_mask2former


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (json.dumps({"model_type": "mask2former"}), True),
        (json.dumps({"model_type": "swin"}), False),
        ("[]", False),
        ("no JSON", False),
        (None, False),
    ],
)
def test_the_config_beside_the_weights_says_what_they_are(tmp_path, config, expected):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert is_mask2former(str(tmp_path / "model.safetensors")) is expected


def test_transformers_is_an_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"pip install wsis_d2\[sam\]"):
        read_mask2former(str(tmp_path / "model.safetensors"))
