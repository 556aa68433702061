"""Settings of a run, with the keys of Detectron2's common/train.py."""

import torch

train = {
    "output_dir": "./output",
    "init_checkpoint": "",
    "max_iter": 1,  # each config says how many
    "amp": {"enabled": False},
    "ddp": {"broadcast_buffers": False, "find_unused_parameters": False},
    "checkpointer": {"period": 5000, "max_to_keep": 100},
    "eval_period": 0,  # at the end alone
    "log_period": 20,
    "device": "cuda" if torch.cuda.is_available() else "cpu",
    "seed": 0,
}
