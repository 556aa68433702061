"""Fixtures that several rooms share: tiny datasets, and tools run as a user runs them."""

from __future__ import annotations

import json
import logging
import os
import runpy
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.utils.logger import setup_logger
from hypothesis import settings
from hypothesis import strategies as st
from warm_python import WarmPython

from wsis_d2 import processes
from wsis_d2.data import register_builtin_datasets
from wsis_d2.data.shapes import write_shapes
from wsis_d2.engine.stages.files import digest_path
from wsis_d2.folder_lock import unlock_folders

ROOT = Path(__file__).resolve().parents[1]

# On a busy machine any example may take long.
settings.register_profile("wsis_d2", deadline=None)
settings.register_profile("nightly", deadline=None, max_examples=10_000)
settings.load_profile("wsis_d2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of many slow tests first: in the end no process waits long for another."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def json_values(*keys: str) -> st.SearchStrategy:
    """Anything that Python's JSON can hold, with dictionaries of these keys and another."""
    numbers = st.integers(-5, 5) | st.integers() | st.floats()
    return st.recursive(
        st.none() | st.booleans() | numbers | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([*keys, "another"]), inner, max_size=4)
        ),
        max_leaves=12,
    )


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # Two cores and many small tensors: more threads only fight.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device() -> str:
    """The device of tests/gpu: "cuda", or what $WSIS_D2_TEST_DEVICE says ("cpu" to try them)."""
    name = os.environ.get("WSIS_D2_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return name


@pytest.fixture
def full_precision():
    """Products of float32 on a GPU are not rounded to TF32."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, flag in zip(backends, allowed):
        backend.allow_tf32 = flag


@pytest.fixture
def torchrun_alone(monkeypatch):
    """The environment in which torchrun starts a process that is the only one."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    ranks = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    for name, value in {**ranks, **address}.items():
        monkeypatch.setenv(name, str(value))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def datasets_root(tmp_path_factory) -> Path:
    """A folder for $DETECTRON2_DATASETS with a Shapes of 16 + 8 pictures."""
    root = tmp_path_factory.mktemp("datasets")
    write_shapes(root / "shapes", num_train=16, num_val=8, seed=0)
    return root


@pytest.fixture(autouse=True, scope="module")
def _same_images(datasets_root):
    """Later tests of the same process see the images, and their times, as they were."""
    images = str(datasets_root / "shapes" / "JPEGImages")
    before = digest_path(images)
    yield
    assert digest_path(images) == before, f"tests have changed {images}: see preserved()"


@contextmanager
def preserved(*paths: Path) -> Iterator[None]:
    """What these files hold, and when they changed, is as before in the end."""
    before = [(path.read_bytes(), path.stat()) for path in paths]
    try:
        yield
    finally:
        for path, (content, status) in zip(paths, before):
            path.write_bytes(content)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def warm_workers(monkeypatch):
    """Workers of this process are forks of one server, though pytest changes the environment."""
    processes.start_method()
    monkeypatch.setattr(processes, "_server_environment", os.environ)


@pytest.fixture(scope="session")
def warm_python(datasets_root):
    """Runs scripts in forks of a process that has imported the package already."""
    own = {"DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1"}
    # As tools/before_torch.py sets it: where a tool changes the environment, its workers start
    # afresh.
    python = WarmPython(ROOT, {"GOMP_SPINCOUNT": "1000", **os.environ, **own})
    yield python
    python.kill()


@pytest.fixture(scope="session")
def run_tool(datasets_root, warm_python):
    """Run ``python tools/<name>`` as a process of its own; returns the completed process.

    With ``env``, what it changes of the environment, in a fresh interpreter.
    """

    def run(name: str, *args: object, env: dict | None = None, timeout: float = 900):
        script = ROOT / "tools" / name
        if env is None:
            return warm_python.run(script, *args, timeout=timeout)
        environment = {
            **os.environ,
            "DETECTRON2_DATASETS": str(datasets_root),
            "OMP_NUM_THREADS": "1",
            **env,
        }
        return subprocess.run(
            [sys.executable, "-W", "ignore", str(script), *map(str, args)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def fresh_loggers():
    """A tool's log handlers hold this test's stdout and output folder: the next test's must not."""
    yield
    for name in ("detectron2", "fvcore", "wsis_d2"):
        target = logging.getLogger(name)
        for handler in list(target.handlers):
            target.removeHandler(handler)
            handler.close()
    setup_logger.cache_clear()


@pytest.fixture
def tool_in_process(datasets_root, monkeypatch, capsys, fresh_loggers):
    """Run a tool's script in this process, which spares importing torch; returns (code, stderr)."""

    def run(name: str, *args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        monkeypatch.chdir(ROOT)
        monkeypatch.syspath_prepend(str(ROOT / "tools"))  # a script finds its neighbours
        register_builtin_datasets(str(datasets_root))
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
        unlock_folders()  # which the end of the process would do
        return exit_.value.code, capsys.readouterr().err

    return run


#: Two iterations of everything: enough to see that the parts fit together.
QUICK = (
    "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 4 DATALOADER.NUM_WORKERS 0 "
    "PSEUDO_LABELS.PEAK_THRESHOLD -100.0 PSEUDO_LABELS.MAX_PEAKS 3 TEST.DETECTIONS_PER_IMAGE 5 "
    "PROPOSALS.BUILTIN.SCALES (150,) PROPOSALS.BUILTIN.COLOR_SPACES ('lab',) CAM.SCALES (1.0,) "
    "REPORT.NUM_EXAMPLES 2 REPORT.NUM_REVIEWED 4 "
    "MODEL.RPN.POST_NMS_TOPK_TRAIN 100 MODEL.RPN.POST_NMS_TOPK_TEST 50"
).split()


@pytest.fixture(scope="session")
def wise_output(run_tool, tmp_path_factory) -> Path:
    """The output folder of the whole WISE recipe on the tiny Shapes."""
    output = tmp_path_factory.mktemp("wise")
    recipe = ("--recipe", "configs/shapes/wise/recipe.yaml", "--output", output)
    completed = run_tool("run_pipeline.py", *recipe, *QUICK)
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    (output / "console.txt").write_text(completed.stdout)
    return output


@pytest.fixture
def true_labels(datasets_root, tmp_path) -> Path:
    """A COCO JSON of the tiny Shapes' true masks, to stand in for pseudo labels."""
    register_builtin_datasets(str(datasets_root))
    path = tmp_path / "labels.json"
    convert_to_coco_json("shapes_train_instances", str(path))
    return path


def check_instance_evaluation(output: Path) -> None:
    """What an evaluation on the tiny Shapes leaves: both APs, and detections of the image size."""
    metrics = json.loads((output / "metrics.json").read_text().splitlines()[-1])
    assert 0 <= metrics["segm/AP"] <= 100
    assert 0 <= metrics["instance_masks/AP50"] <= 100
    (results,) = (output / "inference").rglob("coco_instances_results.json")
    detections = json.loads(results.read_text())
    assert detections
    assert all(d["segmentation"]["size"] == [128, 128] for d in detections)


@pytest.fixture(scope="session")
def random_sam(tmp_path_factory) -> str:
    """A folder with a small SAM of random weights, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    vision = {"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "image_size": 64}
    vision |= {"num_attention_heads": 2, "patch_size": 8, "num_pos_feats": 8, "window_size": 4}
    heads = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    config = transformers.SamConfig(
        vision_config={**vision, "global_attn_indexes": [0]},
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8},
        mask_decoder_config=heads,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.SamModel(config)
        for parameter in network.parameters():  # so random that the prompts count
            torch.nn.init.normal_(parameter, std=0.4)
    processor = transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    folder = str(tmp_path_factory.mktemp("sam"))
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
