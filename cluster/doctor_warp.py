"""`python -m cluster.doctor_warp`: compile and launch one kernel and print what was found, as JSON.

A process of its own, so that a compiler or driver that crashes or hangs takes only this process with it.
"""

import json

import numpy as np
import warp as wp


@wp.kernel
def _double(values: wp.array(dtype=float)):
    i = wp.tid()
    values[i] = 2.0 * values[i]


def probe() -> dict[str, object]:
    """Run the kernel on every device: {"cache": kernel cache folder, "cuda": names, "wrong": devices that failed}."""
    wp.config.quiet = True
    wp.init()
    wrong = []
    for device in wp.get_devices():
        values = wp.array(np.arange(4, dtype=np.float32), device=device)
        wp.launch(_double, dim=4, inputs=[values], device=device)
        if not np.array_equal(values.numpy(), [0.0, 2.0, 4.0, 6.0]):
            wrong.append(str(device))
    cuda = [device.name for device in wp.get_cuda_devices()]
    return {"cache": str(wp.config.kernel_cache_dir), "cuda": cuda, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(probe()))
