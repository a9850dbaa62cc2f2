"""Llama.cpp for the tests: the prebuilt library of node-llama-cpp, which npm installs below `.cache/` once."""

import fcntl
import json
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest


VERSION = "3.21.1"  # of node-llama-cpp, which brings llama.cpp 0.4.0
SCRIPT = Path(__file__).with_suffix(".mjs")
FOLDER = Path(__file__).parents[2] / ".cache" / "llama.cpp"
BUILDS = {
    ("Linux", "x86_64"): "linux-x64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "arm64"): "mac-arm64-metal",
    ("Darwin", "x86_64"): "mac-x64",
}
SECONDS = 180


def find_llama_cpp() -> Path:
    """The folder that llama.cpp runs in. A test is skipped, with the reason, where it cannot be had."""
    build = BUILDS.get((platform.system(), platform.machine()))
    if build is None:
        pytest.skip(f"node-llama-cpp has no library for {platform.system()} {platform.machine()}")
    if missing := [name for name in ("node", "npm") if shutil.which(name) is None]:
        pytest.skip(f"llama.cpp is run by Node.js, of which {' and '.join(missing)} is not installed")
    done = FOLDER / VERSION
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            packages = [f"node-llama-cpp@{VERSION}", f"@node-llama-cpp/{build}@{VERSION}"]
            options = ["--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
            try:
                result = subprocess.run(
                    ["npm", "install", "--prefix", str(FOLDER), *options, *packages],
                    capture_output=True,
                    text=True,
                    timeout=SECONDS,
                )
            except subprocess.TimeoutExpired:
                pytest.skip(f"npm did not install node-llama-cpp {VERSION} within {SECONDS} s")
            if result.returncode:
                pytest.skip(f"npm could not install node-llama-cpp {VERSION}: {result.stderr[-300:]}")
            done.touch()
    shutil.copyfile(SCRIPT, FOLDER / SCRIPT.name)
    return FOLDER


def run_llama_cpp(models: list[tuple[Path, list[dict[str, Any]]]], length: int = 64) -> list[list[Any]]:
    """The answers of llama.cpp, in float32 on one thread, to requests for each of some files; `length` in tokens."""
    jobs = [{"model": str(path), "length": length, "requests": requests} for path, requests in models]
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "requests.json"), Path(folder, "answers.json")
        asked.write_text(json.dumps(jobs), encoding="utf-8")
        command = ["node", SCRIPT.name, str(asked), str(answered)]
        result = subprocess.run(command, cwd=find_llama_cpp(), capture_output=True, text=True, timeout=SECONDS)
        assert result.returncode == 0, result.stderr[-2000:]
        return json.loads(answered.read_text(encoding="utf-8"))
