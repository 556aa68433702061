#!/usr/bin/env python3
"""Put what tools/gpu_check.sh measured into one JSON file; it calls this."""

import argparse
import platform
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import before_torch  # noqa: F401
import torch

from wsis_d2 import __version__
from wsis_d2.engine import run_tool
from wsis_d2.errors import UserError
from wsis_d2.files import load_json, write_json


def test_results(path: Path) -> dict[str, dict]:
    """Outcome and seconds of each test in a JUnit XML file; {} where there is none."""
    if not path.exists():
        return {}
    results = {}
    for case in ElementTree.parse(path).iter("testcase"):
        result = {"outcome": "passed", "seconds": round(float(case.get("time", 0)), 2)}
        for problem in case:
            if problem.tag in ("failure", "error", "skipped"):
                result["outcome"] = "skipped" if problem.tag == "skipped" else "failed"
                result["message"] = problem.get("message", "")
        results[f"{case.get('classname')}::{case.get('name')}"] = result
    return results


def main(args) -> None:
    tests = test_results(Path(args.folder, "tests.xml"))
    benchmark_file = Path(args.folder, "benchmarks.json")
    benchmarks = load_json(benchmark_file) if benchmark_file.exists() else []
    cuda = torch.cuda.is_available()
    report = {
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {
            "wsis_d2": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if cuda else None,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
        },
        "tests": tests,
        "benchmarks": benchmarks,
    }
    write_json(args.output, report, indent=2)
    failed = [name for name, result in tests.items() if result["outcome"] == "failed"]
    num_passed = sum(result["outcome"] == "passed" for result in tests.values())
    print(f"{len(tests)} tests, {num_passed} passed, {len(failed)} failed: {args.output}")
    if failed or not num_passed or not benchmarks:
        what = ", ".join(failed) or ("no test ran" if not num_passed else "the benchmarks stopped")
        raise UserError(
            f"the check of the GPU failed ({what}): see {args.output} and the output above"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="holds tests.xml and benchmarks.json")
    parser.add_argument("output", help="the JSON file to write")
    raise SystemExit(run_tool(main, parser.parse_args()))
