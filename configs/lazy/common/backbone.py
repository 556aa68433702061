"""ResNet-50 as the classifiers have it, and the slim one of the Shapes benchmark."""

from detectron2.config import LazyCall as L
from detectron2.modeling import ResNet

from wsis_d2.modeling import Stem, feature_shapes, make_stages

# Of images in RGB.
pixel_mean = [123.675, 116.280, 103.530]
pixel_std = [58.395, 57.120, 57.375]

resnet50 = L(ResNet)(
    stem=L(Stem)(out_channels=64, norm="FrozenBN", conv_stride=2, max_pool=True),
    stages=L(make_stages)(
        depth=50,
        in_channels=64,
        out_channels=256,
        bottleneck_channels=64,
        strides=[1, 2, 2, 1],
        norm="FrozenBN",
    ),
    out_features=["res5"],
    freeze_at=0,
)

resnet50_features = L(feature_shapes)(
    names=["stem", "res2", "res3", "res4", "res5"],
    channels=[64, 256, 512, 1024, 2048],
    strides=[4, 4, 8, 16, 16],
)

slim_resnet50 = L(ResNet)(
    stem=L(Stem)(out_channels=32, norm="BN", conv_stride=2, max_pool=False),
    stages=L(make_stages)(
        depth=50,
        in_channels=32,
        out_channels=64,
        bottleneck_channels=16,
        strides=[1, 2, 2, 1],
        norm="BN",
    ),
    out_features=["res5"],
    freeze_at=0,
)

slim_resnet50_features = L(feature_shapes)(
    names=["stem", "res2", "res3", "res4", "res5"],
    channels=[32, 64, 128, 256, 512],
    strides=[2, 2, 4, 8, 8],
)
