"""What one render server accepts. Every limit is told to the client, and refused by name when it is passed."""

from __future__ import annotations

import dataclasses

from common.errors import ConfigError, RendererError, bad_value
from common.proto.servofleet.v1 import render_pb2 as pb

PROTOCOL = 1  # counts up when a client of the last one could misread an answer
CHUNK_BYTES = 1 << 20  # of pixels or assets in one message
ANSWER_SLACK = 1 << 16  # of a message beside its chunk


class LimitError(RendererError):
    """A request passes a limit of the server."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The fields of `servofleet.v1.Limits`.

    Attributes:
        max_envs: environment ids are 0 .. max_envs-1.
        max_cameras: of one Render.
        max_side: of an image in pixels.
        max_frame_bytes: of all channels of one Render.
        max_message_bytes: of one message, either way; a Reset is one message.
        max_asset_bytes: of one asset as it is sent.
        max_assets_bytes: of all assets that are kept; those not named for longest go first.
        max_waiting: requests that wait for the renderer.
    """

    max_envs: int = 256
    max_cameras: int = 4096
    max_side: int = 4096
    max_frame_bytes: int = 1 << 30
    max_message_bytes: int = 1 << 25
    max_asset_bytes: int = 1 << 28
    max_assets_bytes: int = 1 << 30
    max_waiting: int = 4

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            lowest = CHUNK_BYTES + ANSWER_SLACK if field.name == "max_message_bytes" else 1
            highest = (1 << 31) - 1 if field.name in ("max_message_bytes", "max_envs", "max_side") else 1 << 62
            if not lowest <= getattr(self, field.name) <= highest:
                raise ConfigError(bad_value(field.name, getattr(self, field.name), f"{lowest} .. {highest}"))

    def check(self, limit: str, field: str, value: int) -> None:
        """Refuse a value above the limit of that name.

        Raises:
            LimitError: naming the field, the value and the limit.
        """
        most = getattr(self, limit)
        if value > most:
            raise LimitError(bad_value(field, value, f"<= {most}, the server's {limit}"))

    def message(self) -> pb.Limits:
        """As it is sent."""
        return pb.Limits(**dataclasses.asdict(self))

    @classmethod
    def of(cls, message: pb.Limits) -> Limits:
        """As it was received."""
        return cls(**{f.name: int(getattr(message, f.name)) for f in dataclasses.fields(cls)})


def channel_options(limits: Limits | None) -> list[tuple[str, int]]:
    """What gRPC is told on a server, and on a client, which does not know the limits yet; it gets small chunks."""
    size = (limits or Limits()).max_message_bytes
    return [
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", (1 << 31) - 1),
        ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a partner
        ("grpc.enable_http_proxy", 0),
    ]
