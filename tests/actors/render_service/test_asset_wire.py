import dataclasses
import hashlib

import numpy as np
import pytest
from misbehaving import PatternRenderer, cube_scene, serving

from actors.render_service import client as client_module
from actors.render_service.asset_wire import AssetStore, decode_asset, encode_asset, receive
from actors.render_service.client import RemoteRenderer
from actors.render_service.limits import LimitError, Limits
from actors.scenes.shapes import build_mesh
from common.errors import AssetError, SceneError
from common.proto.servofleet.v1 import render_pb2 as pb
from common.scene import Shape

MESH = build_mesh(Shape("cube", (0.1,)))
TEXELS = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
FIELDS = ("vertices", "faces", "normals", "uvs")


def ref(name, data):
    return pb.AssetRef(name=name, sha256=hashlib.sha256(data).digest(), bytes=len(data))


def chunks(name, data, size=300):
    for at in range(0, len(data), size):
        yield pb.LoadAssetsRequest(chunk=pb.AssetChunk(name=name, offset=at, data=data[at : at + size]))


def test_what_is_sent_is_what_arrives() -> None:
    got = decode_asset("m", encode_asset("m", MESH))
    for field in FIELDS:
        a, b = getattr(MESH, field), getattr(got, field)
        assert a.dtype == b.dtype and np.array_equal(a, b) and not b.flags.writeable
    assert got.closed == MESH.closed
    assert np.array_equal(decode_asset("t", encode_asset("t", TEXELS)), TEXELS)


@pytest.mark.parametrize(
    ("asset", "said"),
    [
        (np.zeros((2, 2, 3), np.float16), "dtype of asset x = '<f2'"),
        (np.array(["text"]), "dtype of asset x"),
        (dataclasses.replace(MESH, uvs=MESH.uvs.astype(np.float16)), "dtype of asset x: uvs"),
    ],
)
def test_what_cannot_be_sent_is_named(asset, said) -> None:
    with pytest.raises(AssetError, match=said):
        encode_asset("x", asset)


def test_what_cannot_be_drawn_is_refused_on_arrival() -> None:
    with pytest.raises(SceneError, match="asset x"):
        decode_asset("x", encode_asset("x", TEXELS[:, :3]))
    with pytest.raises(SceneError, match="asset x: faces"):
        decode_asset("x", encode_asset("x", dataclasses.replace(MESH, faces=MESH.faces + 1000)))
    with pytest.raises(AssetError, match="asset x cannot be read"):
        decode_asset("x", b"\xff\xff\xff")
    short = pb.Asset(texels=pb.Array(dtype="|u1", shape=[4, 4, 3], data=bytes(47)))
    with pytest.raises(AssetError, match="asset x = '47 bytes'"):
        decode_asset("x", short.SerializeToString())


def test_chunks_must_continue_what_was_offered() -> None:
    data = encode_asset("m", MESH)
    offer = pb.AssetOffer(assets=[ref("m", data)])
    good = list(chunks("m", data))
    assert len(good) > 2
    for messages, said in (
        (good[1:], "bytes at 300 of 'm'"),
        ([good[0], good[0]], "bytes at 0 of 'm'"),
        (good[:-1], "the stream ended after"),
        ([*good, *chunks("m", b"more")], "bytes at 0 of 'm'|the stream ended"),
        (chunks("n", data), "of 'n'"),
        (chunks("m", data[:-1] + bytes([data[-1] ^ 1])), "asset m is damaged"),
    ):
        store = AssetStore(Limits())
        with pytest.raises(AssetError, match=said):
            receive(store, offer, messages)
    store = AssetStore(Limits())
    assert receive(store, offer, []) == ["m"] and "m" not in store
    assert receive(store, offer, good) == [] and np.array_equal(store["m"].faces, MESH.faces)
    assert receive(store, offer, []) == []


def test_a_name_has_one_content_and_the_store_a_size() -> None:
    data, other = encode_asset("a", MESH), encode_asset("a", TEXELS)
    store = AssetStore(Limits(max_assets_bytes=2 * len(data) + 10, max_asset_bytes=len(data)))
    for name in "ab":
        receive(store, pb.AssetOffer(assets=[ref(name, data)]), chunks(name, data))
    with pytest.raises(AssetError, match="sha256 of asset a"):
        store.missing([ref("a", other)])
    assert store.missing([ref("a", data)]) == []  # and so b is the one not named for longest
    receive(store, pb.AssetOffer(assets=[ref("c", data)]), chunks("c", data))
    assert sorted(store) == ["a", "c"] and store.nbytes == 2 * len(data) == 2 * len(encode_asset("c", MESH))
    with pytest.raises(LimitError, match="bytes of the offered assets"):
        store.missing([ref(name, data) for name in "def"])
    large = pb.AssetRef(name="g", bytes=len(data) + 1)
    with pytest.raises(LimitError, match=r"bytes of asset g = .*max_asset_bytes"):
        store.missing([large])


class Counting(dict):
    """Assets that know how often each was read."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.read = []

    def __getitem__(self, name):
        self.read.append(name)
        return super().__getitem__(name)


class Looking(PatternRenderer):
    """Looks at the assets that its scenes name when it builds them, as renderers do."""

    def reset(self, env_ids, scenes):
        for scene in scenes:
            for obj in scene.objects[1:]:
                self.seen = {obj.shape.asset: self.assets[0][obj.shape.asset]}
        super().reset(env_ids, scenes)


def test_only_what_scenes_name_and_the_server_lacks_is_sent(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CHUNK_BYTES", 500)
    sent = []
    monkeypatch.setattr(client_module, "encode_asset", lambda n, a: (sent.append(n), encode_asset(n, a))[1])
    tmp_path.chmod(0o700)
    with serving(f"unix://{tmp_path}/s", Looking()) as service:
        for turn in range(2):
            client = RemoteRenderer(service.bound)
            assets = Counting({"m": MESH, "n": MESH})
            client.load({"unused": TEXELS})
            client.load(assets)
            client.reset(np.array([0]), [cube_scene("m")])
            client.reset(np.array([0, 1]), [cube_scene("m"), cube_scene("m")])
            assert np.array_equal(service.renderer.seen["m"].vertices, MESH.vertices)
            # Once for its hash, once for sending: the second client finds it there.
            assert assets.read == (["m", "m"] if turn == 0 else ["m"])
        assert sent == ["m", "m", "m"]
        with pytest.raises(AssetError, match="sha256 of asset m"):
            client = RemoteRenderer(service.bound)
            client.load({"m": TEXELS})
            client.reset(np.array([0]), [cube_scene("m")])
