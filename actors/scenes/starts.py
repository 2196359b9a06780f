"""Draw an episode's start: a kind of scene, the scene, the desired camera and the start camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.env import EpisodeStart
from actors.scenes.mesh import Mesh
from actors.scenes.models import Model
from actors.scenes.poses import sample_cameras
from actors.scenes.sampling import sample_scene
from common.config import EnvConfig, SceneConfig
from common.rng import Purpose, philox


def sample_start(
    config: SceneConfig,
    env_config: EnvConfig,
    library: Sequence[Model],
    mix: Mapping[str, float],
    *,
    seed: int,
    purpose: Purpose,
    round: int,
    env: int,
    meshes: Mapping[str, Mesh] | None = None,
    images: Sequence[str] = (),
) -> EpisodeStart:
    """Draw one start; the same key gives the same start on every machine.

    Args:
        config: of the scenes.
        env_config: field of view and lowest camera height.
        library: models to choose from.
        mix: weight of each kind of scene.
        seed, purpose, round, env: key of the draw.
        meshes: imported meshes by content hash.
        images: content hashes of the pictures that grounds may show.
    """
    kinds = sorted(mix)
    weights = [mix[k] for k in kinds]
    # A stream of its own, so that the kind does not shift the numbers that the scene and the cameras draw.
    rng = philox(seed, purpose, round=round, env=env, step=2**32)
    kind = kinds[int(rng.choice(len(kinds), p=[w / sum(weights) for w in weights]))]
    scene, goal_scene = sample_scene(
        config,
        library,
        seed=seed,
        purpose=purpose,
        round=round,
        env=env,
        kind=kind,
        fov_deg=env_config.fov_deg,
        images=images,
    )
    key = {"seed": seed, "round": round, "env": env}
    goal, start, d_star = sample_cameras(
        config, env_config, scene, purpose=purpose, goal_scene=goal_scene, meshes=meshes, **key
    )
    return EpisodeStart(scene, goal_scene, start, goal, d_star)
