"""What the trainer makes of the keys of noise handling and refinement."""

import pytest
import torch
from detectron2.engine import DefaultTrainer

from wsis_d2.data import register_builtin_datasets
from wsis_d2.engine import Trainer, load_config
from wsis_d2.errors import UserError
from wsis_d2.labeling import ProposalRefinement

SMALL = ["INPUT.MASK_FORMAT", "bitmask", "MODEL.MASK_ON", "True", "SOLVER.IMS_PER_BATCH", "2"]
SMALL += ["DATASETS.TRAIN", "('shapes_train_instances',)", "DATALOADER.NUM_WORKERS", "0"]
SMALL += ["INPUT.MIN_SIZE_TRAIN", "(128,)", "MODEL.DEVICE", "cpu"]
PARTS = ["MODEL.ROI_HEADS.NAME", "NoiseAwareROIHeads"]
PARTS += ["MODEL.ROI_MASK_HEAD.NAME", "NoiseAwareMaskHead"]


@pytest.fixture(autouse=True)
def _shapes(datasets_root):
    register_builtin_datasets(str(datasets_root))


@pytest.mark.parametrize("key", ["SCORE_WEIGHTS", "IGNORE_REGIONS"])
def test_stock_heads_would_not_heed_them(key):
    options = [f"DATASETS.PSEUDO.{key}", "True", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"]
    with pytest.raises(UserError, match=r"Base-NoiseAware\.yaml"):
        Trainer.build_train_loader(load_config("", [*SMALL, *options]))


@pytest.mark.parametrize("model", ["RetinaMask", "HFMask2Former"])
def test_other_models_have_no_part_that_heeds_them(model):
    options = ["DATASETS.PSEUDO.SCORE_WEIGHTS", "True", "MODEL.META_ARCHITECTURE", model]
    with pytest.raises(UserError, match=f"would do nothing with {model}"):
        Trainer.build_train_loader(load_config("", [*SMALL, *PARTS, *options]))


@pytest.mark.parametrize(
    ("key", "field"), [("SCORE_WEIGHTS", "gt_weights"), ("IGNORE_REGIONS", "gt_ignore")]
)
def test_the_loader_hands_on_what_the_key_asks_for(key, field):
    cfg = load_config("", [*SMALL, *PARTS, f"DATASETS.PSEUDO.{key}", "True"])
    batch = next(iter(Trainer.build_train_loader(cfg)))
    fields = [set(x["instances"].get_fields()) for x in batch]
    assert fields == [{"gt_boxes", "gt_classes", "gt_masks", field}] * 2


@pytest.mark.parametrize("refine", [False, True])
def test_refinement_wraps_the_model_in_evaluation(refine, monkeypatch, tmp_path):
    tested = []
    monkeypatch.setattr(DefaultTrainer, "test", classmethod(lambda cls, *args: tested.append(args)))
    options = ["TEST.REFINE_WITH_PROPOSALS", str(refine), "TEST.REFINE_MIN_IOU", "0.25"]
    cfg = load_config("", [*options, "PROPOSALS.PATH", str(tmp_path)])
    model = torch.nn.Identity()
    Trainer.test(cfg, model)
    ((_, given, _),) = tested
    if refine:
        assert isinstance(given, ProposalRefinement)
        assert given.model is model
        assert given.min_iou == 0.25
    else:
        assert given is model
