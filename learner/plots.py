"""Curves of a run as PNG files: how training went, and how each stage behaves over an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from learner.metrics import Rollouts
from learner.report import LEARNED, ordered_stages

# Grey for what does not learn, dashed for what sees the true pose; readable for the colour-blind.
STYLES: dict[str, dict[str, Any]] = {
    "zero": {"color": "#b5b5b5", "linestyle": ":"},
    "moment_ibvs": {"color": "#7a7a7a", "linestyle": "-."},
    "il": {"color": "#e69f00"},
    "ppo": {"color": "#d55e00"},
    "sil": {"color": "#56b4e9"},
    "ppo_smooth": {"color": "#0072b2"},
    "pbvs": {"color": "#333333", "linestyle": "--"},
    "nearest_goal": {"color": "#009e73", "linestyle": "--"},
}
_LOSSES = {
    "loss_norm": "speed",
    "loss_dir": "direction",
    "loss_diff": "diffusion",
    "loss_seg": "segmentation",
    "loss_match": "matching",
}
_RL_PANELS = {
    "reward": "mean reward per step",
    "iou_final": "IoU at the end of an episode (exploring)",
    "action_norm_final": "mean action norm of the last steps",
}
_FONT = {"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.spines.top": False,
         "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False}  # fmt: skip


def plot_training(rows: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Losses of imitation, and reward, IoU and action norm of reinforcement learning, over the samples learned from.

    Args:
        rows: of metrics.jsonl. Rows with `phase` and `samples` are drawn; evaluation rows are not.
        path: PNG to write.

    Returns:
        `path`, or None if no row holds anything to draw.
    """
    curves = _training_curves(rows)
    panels: list[tuple[str, dict[str, str]]] = [("imitation losses", {k: v for k, v in _LOSSES.items() if k in curves})]
    panels += [(title, {key: ""}) for key, title in _RL_PANELS.items() if key in curves]
    panels = [p for p in panels if p[1]]
    if not panels:
        return None
    columns = 2 if len(panels) > 1 else 1
    with matplotlib.rc_context(_FONT):
        height = -(-len(panels) // columns)
        figure = Figure(figsize=(5.2 * columns, 3.1 * height), layout="constrained")
        for i, (title, keys) in enumerate(panels):
            axes = figure.add_subplot(height, columns, i + 1)
            axes.set_title(title, loc="left")
            axes.set_xlabel("samples learned from [thousands]")
            _draw_training(axes, curves, keys)
        figure.savefig(path, dpi=130)
    return path


def _training_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """For each quantity and phase the samples seen so far in the whole run [thousands] and the values."""
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    seen = 0.0
    for row in rows:
        if "samples" not in row or "evaluation" in row:
            continue
        seen += float(row["samples"]) / 1000.0
        for key in (*_LOSSES, *_RL_PANELS):
            if key in row:
                x, y = curves.setdefault(key, {}).setdefault(str(row["phase"]), ([], []))
                x.append(seen)
                y.append(float(row[key]))
    # Self-imitation reports its losses once: no curve.
    for key in _LOSSES.keys() & curves.keys():
        curves[key] = {phase: xy for phase, xy in curves[key].items() if len(xy[0]) > 1}
    return {key: phases for key, phases in curves.items() if phases}


def _draw_training(
    axes: Axes, curves: Mapping[str, Mapping[str, tuple[list[float], list[float]]]], keys: Mapping[str, str]
) -> None:
    colors = dict(zip(keys, ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"), strict=False))
    for key, label in keys.items():
        for phase, (x, y) in curves[key].items():
            style = {"color": colors[key]} if label else STYLES.get(phase, {"color": "#cc79a7"})
            few = len(x) < 40
            # Rounds are noisy: the raw values stay visible behind their running mean.
            axes.plot(x, y, alpha=0.25, linewidth=0.8, marker="." if few else "", markersize=3, **style)
            axes.plot(x, _smooth(y), linewidth=1.8, label=label or phase, **style)
    if len(keys) > 1:
        _log_axis(axes)
    axes.legend(ncols=2, fontsize=8)


def _log_axis(axes: Axes) -> None:
    """Logarithmic y axis with plain numbers at 1, 2 and 5."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _smooth(values: Sequence[float]) -> NDArray[np.float64]:
    """Centred running mean over a twentieth of the curve; shorter at its ends."""
    half = max(len(values) // 40, 1) if len(values) > 4 else 0
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return np.asarray((total[high] - total[low]) / (high - low))


def plot_episodes(stages: Mapping[str, Rollouts], path: Path, stop_dt_norm: float | None = None) -> Path:
    """Mean IoU and mean action norm against the step for each stage, side by side (as Sym-Servo fig. 7).

    Args:
        stages: evaluation rollouts by stage.
        path: PNG to write.
        stop_dt_norm: drawn as a line where given.
    """
    with matplotlib.rc_context(_FONT):
        figure = Figure(figsize=(10.4, 3.9), layout="constrained")
        left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
        handles = []
        for name in ordered_stages(list(stages)):
            data = stages[name]
            style = {"linewidth": 2.2 if name in LEARNED else 1.4, **STYLES.get(name, {"color": "#cc79a7"})}
            (line,) = left.plot(data.iou.mean(axis=0), label=name, **style)
            handles.append(line)
            norm = data.action_norm.mean(axis=0)
            if norm.any():  # a logarithmic axis has no place for standing still
                right.plot(np.maximum(norm, 1e-3), **style)
        left.set_title("IoU with the desired mask, mean", loc="left")
        left.set_ylim(top=1.0)
        right.set_title("action norm, mean", loc="left")
        _log_axis(right)
        if stop_dt_norm is not None:
            right.axhline(stop_dt_norm, color="black", linewidth=0.8, alpha=0.6)
            right.annotate(
                "stop rule",
                (1.0, stop_dt_norm),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
            )
        for axes in (left, right):
            axes.set_xlabel("step")
            axes.margins(x=0.01)
        figure.legend(handles=handles, loc="outside right center")
        figure.savefig(path, dpi=130)
    return path
