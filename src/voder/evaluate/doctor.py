"""`voder doctor`: one page about an installation and its machine, to paste in a report of a fault."""

import importlib.util
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

PACKAGES = ("voder", "torch", "numpy", "transformers", "safetensors", "soundfile", "soxr", "jsonargparse", "peft")
FORMATS = {"wav": "WAV", "flac": "FLAC", "ogg and opus": "OGG", "mp3": "MP3"}


def examine() -> dict[str, Any]:
    """Gather facts; nothing is changed and the network is not touched."""
    import torch

    from voder import hub

    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": sys.executable,
        "torch build": _torch_build(),
        "processors": {"usable": len(os.sched_getaffinity(0)), "torch threads": torch.get_num_threads()},
        "memory": _memory(),
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "audio": _audio(),
        "extras": _extras(),
        "beside torch": {name: _loadable(name) for name in ("torchaudio", "torchvision")},
        "disk": _disk(),
        "bundled": hub.bundled_names(),
    }


def describe(facts: dict[str, Any]) -> str:
    """The facts as lines."""
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {_line(value)}" for name, value in facts.items())


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_line(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_line, value)) or "none"
    return "not installed" if value is None else str(value)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _torch_build() -> str:
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    mkldnn = "oneDNN" if torch.backends.mkldnn.is_available() else "no oneDNN"  # type: ignore[no-untyped-call]
    return f"{cuda}, {torch.backends.cpu.get_cpu_capability()}, {mkldnn}"


def _gpu(index: int) -> str:
    import torch

    facts = torch.cuda.get_device_properties(index)
    return f"{facts.name} ({facts.total_memory / 2**30:.0f} GiB, capability {facts.major}.{facts.minor})"


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**30
    return f"{free:.1f} GiB free of {total:.1f} GiB"


def _audio() -> dict[str, str]:
    """Which formats the sound library of this installation reads and writes."""
    import soundfile

    known = soundfile.available_formats()
    facts = {name: "yes" if key in known else "no" for name, key in FORMATS.items()}
    return {"libsndfile": soundfile.__libsndfile_version__, **facts}


def _extras() -> dict[str, str]:
    """For every extra of the package, what it lacks."""
    lacking: dict[str, list[str]] = {}
    for requirement in requires("voder") or ():
        name, _, marker = requirement.partition(";")
        extra = marker.partition("extra == ")[2].strip().strip("'\"")
        package = name.split("[")[0].split("<")[0].split(">")[0].split("=")[0].split("!")[0].split("~")[0].strip()
        if extra and package != "voder":
            lacking.setdefault(extra, [])
            if _version(package) is None:
                lacking[extra].append(package)
    return {extra: f"lacks {', '.join(names)}" if names else "complete" for extra, names in lacking.items()}


def _loadable(name: str) -> str:
    """torchaudio and torchvision of another torch break transformers; say so before they do."""
    if importlib.util.find_spec(name) is None:
        return "absent (good)"
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a broken wheel raises is the finding
        return f"broken: {error}"
    return f"{_version(name)}, loads"


def _disk() -> str:
    usage = shutil.disk_usage(Path.cwd())
    return f"{usage.free / 1e9:.0f} GB free of {usage.total / 1e9:.0f} GB here"
