"""Textures and skies as files, for the renderer reads them from disk: each content once, the oldest ones dropped."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import bad_value
from common.protocols import F32, U8


class PictureFiles:
    """A folder of pictures by content hash. What an environment shows is never dropped while it is held."""

    def __init__(self, folder: Path, keep: int = 4096) -> None:
        """An empty folder of this process alone.

        Args:
            folder: made where it does not exist; pictures that an earlier process left are deleted.
            keep: files before the oldest that nobody holds are deleted.

        Raises:
            ValueError: if `keep` is not positive.
        """
        if keep < 1:
            raise ValueError(bad_value("keep", keep, ">= 1"))
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._keep = folder, keep
        for left in [p for p in folder.iterdir() if p.suffix in (".png", ".hdr")]:
            left.unlink()
        self._files: OrderedDict[str, int] = OrderedDict()

    def put(self, key: str, picture: U8 | F32) -> str:
        """Path of the file with this content: PNG for texels u8 (H, W, 3), Radiance HDR for f32; held once more."""
        name = f"{key}.{'png' if picture.dtype == np.uint8 else 'hdr'}"
        if name not in self._files:
            data = png(picture) if picture.dtype == np.uint8 else radiance_hdr(picture)  # type: ignore[arg-type]
            temporary = self._folder / f".{name}"
            temporary.write_bytes(data)
            temporary.replace(self._folder / name)
        self._files[name] = self._files.get(name, 0) + 1
        self._files.move_to_end(name)
        self._drop()
        return str(self._folder / name)

    def release(self, path: str) -> None:
        """One holder less of a file that `put` named."""
        self._files[Path(path).name] -= 1

    def __len__(self) -> int:
        return len(self._files)

    def _drop(self) -> None:
        surplus = len(self._files) - self._keep
        for name in [n for n, holders in self._files.items() if holders == 0][: max(surplus, 0)]:
            (self._folder / name).unlink(missing_ok=True)
            del self._files[name]


def png(texels: U8) -> bytes:
    """A PNG of texels u8 (H, W, 3)."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(texels)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def radiance_hdr(radiance: F32) -> bytes:
    """A Radiance picture, flat RGBE, of radiances >= 0 f32 (H, W, 3); eight bits of mantissa."""
    height, width = radiance.shape[:2]
    mantissa, exponent = np.frexp(radiance.max(axis=2))
    scale = np.where(mantissa > 0.0, np.ldexp(np.float32(256.0), -exponent), np.float32(0.0))
    pixels = np.zeros((height, width, 4), dtype=np.uint8)
    pixels[..., :3] = np.minimum(radiance * scale[..., None], 255.0).astype(np.uint8)
    pixels[..., 3] = np.where(mantissa > 0.0, exponent + 128, 0).astype(np.uint8)
    return f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode() + pixels.tobytes()
