"""A run that is killed and resumed sees the images that an undisturbed one sees."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from wsis_d2.data import ImageLabelMapper, register_builtin_datasets
from wsis_d2.engine import load_config, setup, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def seen(datasets_root, monkeypatch):
    """Ids of the images in the order of loading, and the random state that augments each."""
    register_builtin_datasets(str(datasets_root))
    ids, states = [], []
    read = ImageLabelMapper.__call__

    def record(self, dataset_dict):
        ids.append(dataset_dict["image_id"])
        _, keys, position, *_ = np.random.get_state()  # noqa: NPY002  (Detectron2's generator)
        states.append((keys.tobytes(), position))
        return read(self, dataset_dict)

    monkeypatch.setattr(ImageLabelMapper, "__call__", record)
    yield ids, states
    register_builtin_datasets()


def _train(output, iterations, resume=False, **more):
    options = {
        "MODEL.DEVICE": "cpu",
        "DATASETS.TEST": "()",
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 3,
        "SOLVER.MAX_ITER": iterations,
        "SEED": 7,
        "OUTPUT_DIR": str(output),
        **more,
    }
    opts = [item for pair in options.items() for item in pair]
    cfg = load_config(str(ROOT / "configs/shapes/irnet/classifier.yaml"), opts)
    setup(cfg, verbose=False)
    train(cfg, resume)


def test_a_resumed_run_goes_on_in_the_data(seen, tmp_path):
    ids, states = seen
    _train(tmp_path / "whole", 4)
    whole, whole_states = list(ids), list(states)
    assert len(whole) == 12
    ids.clear()
    states.clear()
    _train(tmp_path / "parts", 2)
    _train(tmp_path / "parts", 4, resume=True)
    assert ids == whole
    assert states == whole_states, "augmentation is another one"
    assert len(set(states)) == len(states), "augmentation comes again"


def test_training_ends_after_max_epochs_with_every_image_seen_as_often(seen, tmp_path):
    ids, _ = seen
    few = {"SOLVER.MAX_EPOCHS": 2, "SOLVER.IMS_PER_BATCH": 8}
    _train(tmp_path, 1000, **few)  # of 16 images
    assert sorted(ids) == sorted(2 * list(dict.fromkeys(ids)))
    assert len(ids) == 32
    assert (tmp_path / "model_final.pth").is_file()


def test_a_run_that_is_killed_after_a_checkpoint_ends_with_the_same_weights(
    datasets_root, tmp_path, monkeypatch
):
    register_builtin_datasets(str(datasets_root))
    same = {"INPUT.IMAGE_LEVEL.CROP_SIZE": 96, "SOLVER.CHECKPOINT_PERIOD": 1}
    _train(tmp_path / "whole", 3, **same)

    read, numbers = ImageLabelMapper.__call__, itertools.count(1)

    def die_in_the_second_iteration(self, dataset_dict):
        if next(numbers) == 5:
            raise KeyboardInterrupt
        return read(self, dataset_dict)

    with monkeypatch.context() as patch:
        patch.setattr(ImageLabelMapper, "__call__", die_in_the_second_iteration)
        with pytest.raises(KeyboardInterrupt):
            _train(tmp_path / "parts", 3, **same)
    assert not (tmp_path / "parts" / "model_final.pth").exists()
    _train(tmp_path / "parts", 3, resume=True, **same)
    register_builtin_datasets()

    whole, parts = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
