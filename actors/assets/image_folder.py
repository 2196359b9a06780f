"""A folder of pictures as textures, for backgrounds and objects.

A picture is known by the sha256 of its file, so a scene that names one means the same picture on every machine. The
hashes are computed when the folder is opened and kept nowhere else: reading the files is what it costs.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from actors.assets.byte_cache import ByteCache
from actors.assets.files import read_file
from actors.assets.formats import open_picture
from common.errors import AssetError, bad_value

U8 = NDArray[np.uint8]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_MAX_SIDE = 4096


class ImageFolder(Mapping[str, U8]):
    """Hash -> texels u8 (side, side, 3): the largest square in a picture's middle, resampled; decoded when asked for.

    Attributes:
        hashes: of the pictures, sorted; of two equal files one.
        side: of the texels.
    """

    def __init__(self, files: Mapping[str, Path], side: int, cache_bytes: int) -> None:
        self._files = dict(sorted(files.items()))
        self.hashes = tuple(self._files)
        self.side = side
        self._memory: ByteCache[U8] = ByteCache(cache_bytes)

    def __getitem__(self, key: str) -> U8:
        """The texels of a hash, not writable.

        Raises:
            KeyError: if the folder had no such picture when it was opened.
            AssetError: naming the file, if it cannot be decoded, or is not what it was.
        """
        known = self._memory.get(key)
        if known is not None:
            return known
        file = self._files[key]
        data = read_file(file)
        if hashlib.sha256(data).hexdigest() != key:
            raise AssetError(f"{file} has changed since the folder was opened")
        picture = open_picture(data, str(file))
        edge = min(picture.size)
        left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
        # Cropped first: the filter reaches beyond a box that it is only told of.
        square = picture.crop((left, top, left + edge, top + edge))
        square = square.resize((self.side, self.side), Image.Resampling.LANCZOS)
        texels = np.array(square, dtype=np.uint8)
        texels.setflags(write=False)
        self._memory.put(key, texels, texels.nbytes)
        return texels

    def __iter__(self) -> Iterator[str]:
        return iter(self.hashes)

    def __len__(self) -> int:
        return len(self.hashes)

    def __contains__(self, key: object) -> bool:
        return key in self._files


def open_images(path: str | Path, side: int = 256, cache_bytes: int = 64_000_000) -> ImageFolder:
    """All pictures (png, jpg, webp) below a folder; hidden files and folders are left out.

    Args:
        path: the folder.
        side: of the texels, a power of two, because textures repeat by masking.
        cache_bytes: of decoded texels are held in memory at most.

    Raises:
        AssetError: if there is no picture, or naming the first one whose header is none or that is cut short.
    """
    if not 1 <= side <= _MAX_SIDE or side & (side - 1):
        raise AssetError(bad_value("side of pictures", side, f"a power of two, 1 .. {_MAX_SIDE}"))
    folder = Path(path)
    if not folder.is_dir():
        raise AssetError(bad_value("folder of pictures", str(folder), "an existing folder"))
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.suffix.lower() not in SUFFIXES or hidden or not file.is_file():
            continue
        data = read_file(file)
        _check_header(data, file)
        files.setdefault(hashlib.sha256(data).hexdigest(), file)
    if not files:
        raise AssetError(f"no pictures in {folder}: looked for {', '.join(SUFFIXES)}")
    return ImageFolder(files, side, cache_bytes)


def _check_header(data: bytes, file: Path) -> None:
    """Refuse what is visibly no picture, without decoding it."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()
    except Exception as e:
        raise AssetError(f"picture {file} cannot be read: {type(e).__name__}: {' '.join(str(e).split())[:160]}") from e
