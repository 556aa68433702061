"""What the stages work on says what there is to be found."""

import numpy as np
import pytest

from wsis_d2.benchmarks.scenes import Scene, draw_image
from wsis_d2.benchmarks.stages import IMAGE_SIZE, make_workload
from wsis_d2.errors import UserError
from wsis_d2.labeling import instances_from_relations
from wsis_d2.structures import encode_masks, mask_iou


def make_scene(size=(150, 200), seed=0) -> Scene:
    rng = np.random.default_rng(seed)
    return Scene.on(draw_image(size, rng), rng)


def test_scenes_are_always_the_same():
    first, second = make_scene(), make_scene()
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.masks, second.masks)
    assert (first.displacement() == second.displacement()).all()
    assert first.image.std() > 30
    assert not np.array_equal(first.masks, make_scene(seed=1).masks)


def test_objects_do_not_overlap_and_have_the_classes_of_the_image():
    scene = make_scene()
    assert scene.masks.sum(0).max() == 1
    assert scene.masks.any((1, 2)).all()
    assert set(scene.class_ids.tolist()) == set(scene.labels.tolist())


def test_relations_lead_to_the_objects():
    scene = make_scene()
    found = instances_from_relations(
        scene.cam(), scene.labels, scene.boundary(), scene.displacement(), scene.size
    )
    iou = mask_iou(encode_masks(scene.masks), encode_masks(found.pred_masks.numpy()))
    same_class = scene.class_ids[:, None] == found.pred_classes.numpy()
    assert len(found) < 20
    assert np.median((iou * same_class).max(1)) > 0.6


def test_without_photos_there_is_one_image_of_the_usual_size():
    workload = make_workload()
    assert [scene.size for scene in workload.scenes] == [IMAGE_SIZE]
    assert workload.what == "image 500 x 375"


@pytest.mark.parametrize(("edge", "size"), [(250, (188, 250)), (1000, (750, 1000))])
def test_images_are_resized_to_a_longest_edge(edge, size):
    (scene,) = make_workload(longest_edge=edge).scenes
    assert scene.size == size
    assert scene.masks.shape[1:] == size


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_photos_is_named(tmp_path, exists):
    folder = tmp_path / "photos"
    if exists:
        folder.mkdir()
        (folder / "notes.txt").write_text("")
    with pytest.raises(UserError, match=f"'{folder}'"):
        make_workload(str(folder))
