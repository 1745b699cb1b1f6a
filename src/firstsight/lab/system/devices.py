"""Where a model is put: one way for all commands, which is checked before anything is loaded."""

import torch

from firstsight.errors import InputError

AUTO = "auto"


def there() -> list[str]:
    """The devices of this machine that a model can be put on, the CPU first."""
    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def find_device(name: str = AUTO) -> torch.device:
    """The device of this name.

    Args:
        name: as torch names it: cpu, cuda (the first GPU), cuda:1, mps; auto: the first GPU of CUDA, else the CPU.

    Raises:
        InputError: it is not in this machine, or no name of a device.
    """
    devices = there()
    if name == AUTO:
        return torch.device("cuda" if "cuda:0" in devices else "cpu")
    if name not in devices and not (name == "cuda" and "cuda:0" in devices):
        raise InputError(f"device is {name!r}, which is not there; expected {', '.join([AUTO, *devices])}.")
    return torch.device(name)
