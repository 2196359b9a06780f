import sys

import numpy as np
from PIL import Image

from actors.contact_sheet import main


def test_a_sheet_shows_every_scene(tmp_path, monkeypatch):
    path = tmp_path / "sheet.png"
    monkeypatch.setattr(sys, "argv", ["contact_sheet", str(path), "--count", "3", "--side", "48"])
    main()
    sheet = np.array(Image.open(path))
    assert sheet.shape == (2 * 48, 2 * 4 * 48, 3)
    views = sheet.reshape(2, 48, 8, 48, 3).transpose(0, 2, 1, 3, 4)
    # Two scenes in the first row, one in the second; masks are black and white and neither empty nor full.
    for row, first in ((0, 0), (0, 4), (1, 0)):
        assert views[row, first].std() > 5 and views[row, first + 1].std() > 5
        mask = views[row, first + 2]
        assert set(np.unique(mask)) == {0, 255} and 0.01 < (mask > 0).mean() < 0.5
        assert len(np.unique(views[row, first + 3])) > 20
    assert (views[1, 4:] == 0).all()
