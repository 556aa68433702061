"""A user's own LazyConfig training, in the manner of Detectron2's tools/lazyconfig_train_net.py.

Usage: python lazy_loop.py CONFIG_FILE KEY=VALUE...

Prints the results of the evaluator, if any, on its last line.
"""

import json
import sys

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer, default_writers, hooks
from detectron2.evaluation import inference_on_dataset


def main(config_file, *overrides):
    cfg = LazyConfig.apply_overrides(LazyConfig.load(config_file), list(overrides))
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter)),
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=False)
    trainer.train(0, cfg.train.max_iter)
    results = {}
    if "evaluator" in cfg.dataloader:
        loader = instantiate(cfg.dataloader.test)
        results = inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator))
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
