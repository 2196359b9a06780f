"""Errors a user can act on: each names the field, the value seen and what is allowed."""

from __future__ import annotations


class ServofleetError(Exception):
    """Base of every error that the command line prints as one line (exit code 1)."""


class ConfigError(ServofleetError):
    """A setting is unknown, mistyped or out of range (exit code 2)."""


class SchemaError(ServofleetError):
    """A record does not have the fields, dtypes or shapes that its schema asks for."""


class StoreError(ServofleetError):
    """A replay store cannot be opened, read or written as asked."""


class CheckpointError(ServofleetError):
    """A checkpoint is missing, torn, or was made by something that does not fit."""


class ExportError(ServofleetError):
    """A policy cannot be exported, or an exported one cannot be used as it is."""


class EncoderMismatchError(ServofleetError):
    """A stored feature z was computed by another encoder than the learner's."""


class TrainingError(ServofleetError):
    """A learner cannot go on: a loss or a gradient is not finite, or an update came back empty."""


class LearnerLostError(TrainingError):
    """A learner's process or device failed; what it learned since the last checkpoint is lost, and no more."""


class RendererError(ServofleetError):
    """A renderer in another process failed; nothing of what it was asked for may be used."""


class RendererLostError(RendererError):
    """A renderer's process cannot be reached, was started again, or has been taken over by another client."""


class LateFrameError(RendererError):
    """A renderer did not answer before the deadline."""


class TornFrameError(RendererError):
    """A renderer's answer has a part missing, twice or out of place."""


class FrameShapeError(RendererError):
    """A renderer answered with other frames, sizes or channels than those asked for."""


class StaleFrameError(RendererError):
    """A renderer answered with a frame of another pose than the one asked for."""


class RendererQuarantinedError(RendererError):
    """A renderer's process failed too often, or in a way that comes again: it is not started any more."""


class SceneError(ServofleetError):
    """A scene or a camera cannot be rendered as described."""


class AssetError(ServofleetError):
    """A model, a picture or a cache of them cannot be read or used as it is."""


def bad_value(field: str, value: object, allowed: str) -> str:
    """The one form of our error lines: ``field = value: allowed ...``."""
    return f"{field} = {value!r}: allowed is {allowed}"
