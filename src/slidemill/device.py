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
        wanted = next(name for name, there in available.items() if there)
    if not available[wanted]:
        problem = Problem("device", f"{wanted} is not on this machine", "Use auto, or another node")
        raise ConfigError("device", [problem])
    return f"cuda:{_idlest_gpu()}" if wanted == "cuda" else wanted


def _idlest_gpu() -> int:
    """The GPU with the most free memory: jobs of one machine without a scheduler spread over it."""
    import torch

    count = torch.cuda.device_count()
    free = [torch.cuda.mem_get_info(number)[0] for number in range(count)] if count > 1 else [0]
    return free.index(max(free))
