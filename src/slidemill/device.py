"""Which device torch runs on."""

from slidemill.errors import ConfigError, Problem


def choose_device(wanted: str) -> str:
    """Turn `auto` into a device, and check that a named one is there.

    Raises:
        ConfigError: If the device that was asked for is not there.
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return next(name for name, there in available.items() if there)
    if not available[wanted]:
        problem = Problem("device", f"{wanted} is not on this machine", "Use auto, or another node")
        raise ConfigError("device", [problem])
    return wanted
