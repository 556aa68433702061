"""From the command line's arguments to a config."""

import pytest

from wsis_d2.engine import load_config
from wsis_d2.errors import UserError


def test_file_then_command_line(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("VERSION: 2\nSEED: 3\nSOLVER:\n  MAX_ITER: 5\n")
    cfg = load_config(str(path), ["SEED", "4"])
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER) == (4, 5)


def test_a_config_that_would_run_code_is_refused(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "config.yaml"
    path.write_text(
        f"VERSION: 2\nOUTPUT_DIR: !!python/object/apply:builtins.open ['{trace}', 'w']\n"
    )
    with pytest.raises(UserError, match="config.yaml"):
        load_config(str(path))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["SOLVER.MAX_ITERS", "5"], "SOLVER.MAX_ITERS"),
        (["SOLVER.MAX_ITER", "five"], "SOLVER.MAX_ITER"),
    ],
)
def test_unknown_keys_and_values(options, message):
    with pytest.raises(UserError, match=message):
        load_config("", options)
