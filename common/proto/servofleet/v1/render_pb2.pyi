from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Channel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANNEL_UNSPECIFIED: _ClassVar[Channel]
    CHANNEL_RGB: _ClassVar[Channel]
    CHANNEL_INSTANCE_ID: _ClassVar[Channel]
    CHANNEL_DEPTH: _ClassVar[Channel]
CHANNEL_UNSPECIFIED: Channel
CHANNEL_RGB: Channel
CHANNEL_INSTANCE_ID: Channel
CHANNEL_DEPTH: Channel

class RequestId(_message.Message):
    __slots__ = ("session", "number")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    session: str
    number: int
    def __init__(self, session: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class SharedMemory(_message.Message):
    __slots__ = ("pid", "fd", "bytes", "token")
    PID_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    pid: int
    fd: int
    bytes: int
    token: bytes
    def __init__(self, pid: _Optional[int] = ..., fd: _Optional[int] = ..., bytes: _Optional[int] = ..., token: _Optional[bytes] = ...) -> None: ...

class HelloRequest(_message.Message):
    __slots__ = ("protocol", "session", "client", "proof")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    session: str
    client: str
    proof: SharedMemory
    def __init__(self, protocol: _Optional[int] = ..., session: _Optional[str] = ..., client: _Optional[str] = ..., proof: _Optional[_Union[SharedMemory, _Mapping]] = ...) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("protocol", "backend", "backend_version", "servofleet_version", "limits", "channels", "shared_memory", "server", "fixed_height", "fixed_width")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    BACKEND_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVOFLEET_VERSION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    FIXED_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FIXED_WIDTH_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    backend: str
    backend_version: str
    servofleet_version: str
    limits: Limits
    channels: _containers.RepeatedScalarFieldContainer[Channel]
    shared_memory: bool
    server: str
    fixed_height: int
    fixed_width: int
    def __init__(self, protocol: _Optional[int] = ..., backend: _Optional[str] = ..., backend_version: _Optional[str] = ..., servofleet_version: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., channels: _Optional[_Iterable[_Union[Channel, str]]] = ..., shared_memory: bool = ..., server: _Optional[str] = ..., fixed_height: _Optional[int] = ..., fixed_width: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_envs", "max_cameras", "max_side", "max_frame_bytes", "max_message_bytes", "max_asset_bytes", "max_assets_bytes", "max_waiting")
    MAX_ENVS_FIELD_NUMBER: _ClassVar[int]
    MAX_CAMERAS_FIELD_NUMBER: _ClassVar[int]
    MAX_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ASSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ASSETS_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_WAITING_FIELD_NUMBER: _ClassVar[int]
    max_envs: int
    max_cameras: int
    max_side: int
    max_frame_bytes: int
    max_message_bytes: int
    max_asset_bytes: int
    max_assets_bytes: int
    max_waiting: int
    def __init__(self, max_envs: _Optional[int] = ..., max_cameras: _Optional[int] = ..., max_side: _Optional[int] = ..., max_frame_bytes: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_asset_bytes: _Optional[int] = ..., max_assets_bytes: _Optional[int] = ..., max_waiting: _Optional[int] = ...) -> None: ...

class Asset(_message.Message):
    __slots__ = ("mesh", "texels")
    MESH_FIELD_NUMBER: _ClassVar[int]
    TEXELS_FIELD_NUMBER: _ClassVar[int]
    mesh: Mesh
    texels: Array
    def __init__(self, mesh: _Optional[_Union[Mesh, _Mapping]] = ..., texels: _Optional[_Union[Array, _Mapping]] = ...) -> None: ...

class Mesh(_message.Message):
    __slots__ = ("vertices", "faces", "normals", "uvs", "closed")
    VERTICES_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    NORMALS_FIELD_NUMBER: _ClassVar[int]
    UVS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    vertices: Array
    faces: Array
    normals: Array
    uvs: Array
    closed: bool
    def __init__(self, vertices: _Optional[_Union[Array, _Mapping]] = ..., faces: _Optional[_Union[Array, _Mapping]] = ..., normals: _Optional[_Union[Array, _Mapping]] = ..., uvs: _Optional[_Union[Array, _Mapping]] = ..., closed: bool = ...) -> None: ...

class Array(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class AssetRef(_message.Message):
    __slots__ = ("name", "sha256", "bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: bytes
    bytes: int
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[bytes] = ..., bytes: _Optional[int] = ...) -> None: ...

class LoadAssetsRequest(_message.Message):
    __slots__ = ("offer", "chunk")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    offer: AssetOffer
    chunk: AssetChunk
    def __init__(self, offer: _Optional[_Union[AssetOffer, _Mapping]] = ..., chunk: _Optional[_Union[AssetChunk, _Mapping]] = ...) -> None: ...

class AssetOffer(_message.Message):
    __slots__ = ("session", "assets")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ASSETS_FIELD_NUMBER: _ClassVar[int]
    session: str
    assets: _containers.RepeatedCompositeFieldContainer[AssetRef]
    def __init__(self, session: _Optional[str] = ..., assets: _Optional[_Iterable[_Union[AssetRef, _Mapping]]] = ...) -> None: ...

class AssetChunk(_message.Message):
    __slots__ = ("name", "offset", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: int
    data: bytes
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class LoadAssetsResponse(_message.Message):
    __slots__ = ("missing",)
    MISSING_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, missing: _Optional[_Iterable[str]] = ...) -> None: ...

class ResetRequest(_message.Message):
    __slots__ = ("id", "env_ids", "scenes")
    ID_FIELD_NUMBER: _ClassVar[int]
    ENV_IDS_FIELD_NUMBER: _ClassVar[int]
    SCENES_FIELD_NUMBER: _ClassVar[int]
    id: RequestId
    env_ids: _containers.RepeatedScalarFieldContainer[int]
    scenes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[_Union[RequestId, _Mapping]] = ..., env_ids: _Optional[_Iterable[int]] = ..., scenes: _Optional[_Iterable[str]] = ...) -> None: ...

class ResetResponse(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: RequestId
    def __init__(self, id: _Optional[_Union[RequestId, _Mapping]] = ...) -> None: ...

class RenderRequest(_message.Message):
    __slots__ = ("id", "env_ids", "world_T_cam", "intrinsics", "height", "width", "channels", "slot")
    ID_FIELD_NUMBER: _ClassVar[int]
    ENV_IDS_FIELD_NUMBER: _ClassVar[int]
    WORLD_T_CAM_FIELD_NUMBER: _ClassVar[int]
    INTRINSICS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    id: RequestId
    env_ids: _containers.RepeatedScalarFieldContainer[int]
    world_T_cam: _containers.RepeatedScalarFieldContainer[float]
    intrinsics: _containers.RepeatedScalarFieldContainer[float]
    height: int
    width: int
    channels: _containers.RepeatedScalarFieldContainer[Channel]
    slot: SharedMemory
    def __init__(self, id: _Optional[_Union[RequestId, _Mapping]] = ..., env_ids: _Optional[_Iterable[int]] = ..., world_T_cam: _Optional[_Iterable[float]] = ..., intrinsics: _Optional[_Iterable[float]] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[_Iterable[_Union[Channel, str]]] = ..., slot: _Optional[_Union[SharedMemory, _Mapping]] = ...) -> None: ...

class RenderResponse(_message.Message):
    __slots__ = ("head", "chunk", "end")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    head: FrameHead
    chunk: FrameChunk
    end: FrameEnd
    def __init__(self, head: _Optional[_Union[FrameHead, _Mapping]] = ..., chunk: _Optional[_Union[FrameChunk, _Mapping]] = ..., end: _Optional[_Union[FrameEnd, _Mapping]] = ...) -> None: ...

class FrameHead(_message.Message):
    __slots__ = ("id", "frame_ids", "pose_used", "height", "width", "channels", "bytes", "in_slot")
    ID_FIELD_NUMBER: _ClassVar[int]
    FRAME_IDS_FIELD_NUMBER: _ClassVar[int]
    POSE_USED_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    IN_SLOT_FIELD_NUMBER: _ClassVar[int]
    id: RequestId
    frame_ids: _containers.RepeatedScalarFieldContainer[int]
    pose_used: _containers.RepeatedScalarFieldContainer[float]
    height: int
    width: int
    channels: _containers.RepeatedScalarFieldContainer[Channel]
    bytes: int
    in_slot: bool
    def __init__(self, id: _Optional[_Union[RequestId, _Mapping]] = ..., frame_ids: _Optional[_Iterable[int]] = ..., pose_used: _Optional[_Iterable[float]] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[_Iterable[_Union[Channel, str]]] = ..., bytes: _Optional[int] = ..., in_slot: bool = ...) -> None: ...

class FrameChunk(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class FrameEnd(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("state", "server", "pid", "uptime_s", "busy_s", "waiting", "resets", "frames", "rss_bytes", "device_bytes", "assets_bytes", "session", "recycle_advised")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[HealthResponse.State]
        STATE_STARTING: _ClassVar[HealthResponse.State]
        STATE_SERVING: _ClassVar[HealthResponse.State]
        STATE_DRAINING: _ClassVar[HealthResponse.State]
    STATE_UNSPECIFIED: HealthResponse.State
    STATE_STARTING: HealthResponse.State
    STATE_SERVING: HealthResponse.State
    STATE_DRAINING: HealthResponse.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RESETS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ASSETS_BYTES_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RECYCLE_ADVISED_FIELD_NUMBER: _ClassVar[int]
    state: HealthResponse.State
    server: str
    pid: int
    uptime_s: float
    busy_s: float
    waiting: int
    resets: int
    frames: int
    rss_bytes: int
    device_bytes: int
    assets_bytes: int
    session: str
    recycle_advised: bool
    def __init__(self, state: _Optional[_Union[HealthResponse.State, str]] = ..., server: _Optional[str] = ..., pid: _Optional[int] = ..., uptime_s: _Optional[float] = ..., busy_s: _Optional[float] = ..., waiting: _Optional[int] = ..., resets: _Optional[int] = ..., frames: _Optional[int] = ..., rss_bytes: _Optional[int] = ..., device_bytes: _Optional[int] = ..., assets_bytes: _Optional[int] = ..., session: _Optional[str] = ..., recycle_advised: bool = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("recycle",)
    RECYCLE_FIELD_NUMBER: _ClassVar[int]
    recycle: bool
    def __init__(self, recycle: bool = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("waiting",)
    WAITING_FIELD_NUMBER: _ClassVar[int]
    waiting: int
    def __init__(self, waiting: _Optional[int] = ...) -> None: ...
