"""The peak arithmetic rate of an accelerator, for model FLOPs utilisation; unknown devices have none."""

import torch

__all__ = ["peak_flops"]

# Dense 16-bit matrix products (bfloat16; float16 on V100), FLOP/s, from the makers' data sheets. The first name that is
# part of the device's name counts, so longer ones stand first.
_PEAKS = (
    ("B200", 2.25e15),
    ("H200", 989.4e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835.5e12),
    ("H100", 989.4e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10G", 70e12),
    ("V100", 125e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
    ("MI300X", 1307.4e12),
)


def peak_flops(device_name: str | None = None) -> float | None:
    """Peak FLOP/s of one device in 16-bit matrix products; None on a CPU or where it is not in the table.

    Args:
        device_name: by default that of the GPU in use here.
    """
    if device_name is None:
        if not torch.cuda.is_available():
            return None
        device_name = torch.cuda.get_device_name()
    return next((peak for name, peak in _PEAKS if name in device_name), None)
