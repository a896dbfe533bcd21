"""Which device and precision to work on: decided once, before work starts, and refused by name when absent."""

import torch

from voder.errors import ResourceError

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16")


def resolve_device(name: str) -> torch.device:
    """Return the device that `name` (auto, cpu, cuda or cuda:N) means.

    Raises:
        ResourceError: a GPU was asked for and there is none, or not that many.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ResourceError(f"{name!r} is no device; allowed are {', '.join(DEVICES)}, cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"--device {name} was asked for, but this machine shows {torch.cuda.device_count()} GPUs; use --device cpu"
        )
    return device


def check_precision(device: torch.device, precision: str) -> None:
    """Refuse a precision that a device does not have.

    Raises:
        ResourceError: bf16 on a GPU without it.
    """
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ResourceError(f"{torch.cuda.get_device_name(device)} has no bf16; use --precision fp32")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context of a precision (fp32 leaves everything as it is)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
