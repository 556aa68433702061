"""Images and their seeds, for IRNet and AffinityNet."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, build_detection_train_loader

from wsis_d2.data import ImageLabelMapper, SeedMapper, get_image_label_dicts, get_seed_dicts

dataloader = {
    "train": L(build_detection_train_loader)(
        # tools/make_seeds.py writes the folder.
        dataset=L(get_seed_dicts)(names="voc_2012_train_aug", folder="output/seeds"),
        mapper=L(SeedMapper)(is_train=True, augmentations=[], image_format="RGB"),
        total_batch_size=16,
        aspect_ratio_grouping=False,
        num_workers=4,
    ),
    # For IRNet's mean displacement, which is measured when training ends. A loop of your own calls
    # wsis_d2.engine.MeanDisplacement(model, build_loader).update() then.
    "train_images": L(build_detection_test_loader)(
        dataset=L(get_image_label_dicts)(names="${...train.dataset.names}"),
        mapper=L(ImageLabelMapper)(is_train=False, augmentations=[], image_format="RGB"),
        num_workers="${..train.num_workers}",
    ),
}
