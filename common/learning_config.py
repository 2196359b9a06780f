"""Settings of what is learned and how: rewards, one class per kind of phase, and the learner that computes it."""

from __future__ import annotations

import dataclasses

from common.settings import fixed, free


@dataclasses.dataclass
class RewardConfig:
    """Weights of Sym-Servo eq. 5-10."""

    center: float = fixed(1.0, "lambda_c of eq. 6; distance in image widths", ">= 0")
    visibility: float = fixed(1.0, "lambda_v of eq. 7", ">= 0")
    action: float = fixed(0.06, "lambda_a of eq. 8", ">= 0")
    success: float = fixed(0.5, "R_succ of eq. 9", ">= 0")
    success_iou: float = fixed(0.95, "IoU above which eq. 9 pays", "0..1")


@dataclasses.dataclass
class JitterConfig:
    """Random changes of colour, drawn for every image of a batch, current and goal alike; 0 is none."""

    brightness: float = fixed(0.0, "images are multiplied by 1 +- U(0, this)", "0..1")
    contrast: float = fixed(0.0, "distances to the image's mean grey are multiplied by 1 +- U(0, this)", "0..1")
    saturation: float = fixed(0.0, "distances to each pixel's grey are multiplied by 1 +- U(0, this)", "0..1")
    hue: float = fixed(0.0, "colours are turned about the grey axis by +- U(0, this) of a full turn", "0..0.5")


@dataclasses.dataclass
class ImitationConfig:
    """Stage 1: joint imitation and diffusion on uniform pairs and DAgger episodes."""

    batch_size: int = fixed(48, "rows per update", "> 0")
    rows_per_episode: int = fixed(2, "rows drawn per episode drawn; they share the goal's features", "> 0")
    lr: float = fixed(1.5e-3, "peak learning rate of AdamW", "> 0")
    lr_schedule: str = fixed("cosine", "how the rate falls over the phase, in samples", "constant|linear|cosine")
    lr_warmup: int = fixed(0, "samples over which the rate rises to its peak first", ">= 0")
    lr_final: float = fixed(0.02, "share of the peak that is left at the end", "0..1")
    weight_decay: float = fixed(0.01, "AdamW weight decay of matrices", ">= 0")
    grad_clip: float = fixed(1.0, "global gradient norm limit", "> 0")
    ema_decay: float = fixed(0.998, "decay of the averaged weights that act and are handed on", "0..1")
    loss_dir: float = fixed(1.5, "weight of the direction loss (CNSv2 eq. 23)", ">= 0")
    loss_diff: float = fixed(1.0, "weight of the diffusion loss (Sym-Servo eq. 4)", ">= 0")
    loss_seg: float = fixed(1.5, "weight of the segmentation loss", ">= 0")
    loss_match: float = fixed(1.0, "weight of the matching cross-entropy", ">= 0")
    diffusion_draws: int = fixed(4, "noise draws per sample", "> 0")
    dagger_start: float = fixed(0.5, "fraction of the phase after which DAgger episodes are collected", "0..1")
    dagger_full: float = fixed(
        0.0,
        "fraction of the phase by which their share has grown to dagger_share; a step if not after the start",
        "0..1",
    )
    dagger_share: float = fixed(0.5, "share of DAgger rows in a batch, from dagger_full on", "0..1")
    max_label_norm: float = fixed(1.6, "rows whose expert twist is larger are not learned from", "> 0")
    shrink_share: float = fixed(0.5, "share of uniform pairs that are pulled towards the goal", "0..1")
    shrink_max: float = fixed(3.5, "they keep exp(-U(0, this)) of the pose difference", ">= 0")
    jitter: JitterConfig = fixed(JitterConfig, "colour jitter of the images that are learned from")
    updates_per_round: int = fixed(16, "gradient steps per round; the next round is collected meanwhile", "> 0")
    scenes_per_round: int = fixed(64, "uniform pair blocks per round", "> 0")
    views_per_scene: int = fixed(4, "pairs per block", "> 0")
    dagger_envs: int = fixed(16, "DAgger environments per round", ">= 0")
    dagger_steps: int = fixed(16, "steps of a DAgger episode", "> 0")


@dataclasses.dataclass
class PPOConfig:
    """Stages 2 and 3b: PPO on stored features."""

    envs: int = fixed(100, "episodes per round", "> 0")
    steps: int = fixed(40, "steps per episode; each round starts new ones, so that no state outlives it", "> 0")
    gamma: float = fixed(0.93, "discount", "0..1")
    lam: float = fixed(0.95, "GAE lambda", "0..1")
    clip: float = fixed(0.2, "clip range of the probability ratio", "> 0")
    epochs: int = fixed(8, "passes over a round's data", "> 0")
    minibatch: int = fixed(500, "rows per gradient step", "> 0")
    lr: float = fixed(1e-3, "peak learning rate of Adam", "> 0")
    lr_schedule: str = fixed("constant", "how the rate falls over the phase, in samples", "constant|linear|cosine")
    lr_warmup: int = fixed(0, "samples over which the rate rises to its peak first", ">= 0")
    lr_final: float = fixed(0.02, "share of the peak that is left at the end", "0..1")
    weight_decay: float = fixed(0.0, "AdamW weight decay of matrices; Adam where it is 0", ">= 0")
    grad_clip: float = fixed(1.0, "global gradient norm limit", "> 0")
    value_weight: float = fixed(0.5, "weight of the value loss", ">= 0")
    value_clip: float = fixed(10.0, "largest squared value error that counts", "> 0")
    entropy_weight: float = fixed(0.0, "weight of the entropy bonus", ">= 0")
    kl_stop: float = fixed(0.05, "an update ends when the mean KL to the acting policy passes this", "> 0")
    std: float = fixed(0.1, "state-independent std of actions when the phase starts", "> 0")


@dataclasses.dataclass
class SelfImitationConfig:
    """Stage 3a: imitate own successful trajectories, standing still once successful (Sym-Servo eq. 11-12)."""

    episodes: int = fixed(512, "deterministic episodes to collect", "> 0")
    steps: int = fixed(60, "steps per episode", "> 0")
    success_iou: float = fixed(0.92, "IoU that makes a trajectory successful", "0..1")
    epochs: int = fixed(6, "passes over the successful trajectories", "> 0")
    minibatch: int = fixed(500, "rows per gradient step", "> 0")
    lr: float = fixed(3e-4, "peak learning rate of Adam", "> 0")
    lr_schedule: str = fixed("constant", "how the rate falls over the phase, in samples", "constant|linear|cosine")
    lr_warmup: int = fixed(0, "samples over which the rate rises to its peak first", ">= 0")
    lr_final: float = fixed(0.02, "share of the peak that is left at the end", "0..1")
    weight_decay: float = fixed(0.0, "AdamW weight decay of matrices; Adam where it is 0", ">= 0")
    loss_dir: float = fixed(1.5, "weight of the direction loss", ">= 0")
    min_norm: float = fixed(0.005, "norm that a zero target is clamped to in the log-norm loss", "> 0")
    min_dir_norm: float = fixed(0.003, "direction is not learned where the target's norm is smaller", "> 0")
    grad_clip: float = fixed(1.0, "global gradient norm limit", "> 0")


@dataclasses.dataclass
class LearnerConfig:
    """How the central learner computes; what it learns is the phases'."""

    device: str = free("auto", "where it computes; auto takes a GPU if there is one", "auto|cpu|cuda")
    precision: str = fixed("float32", "of the encoder; heads, losses and weights are float32", "float32|bf16|fp16")
    compile: bool = free(False, "compile the encoder (torch.compile); without a compiler the learner says so, once")
    channels_last: bool = free(False, "keep convolution kernels in channels-last memory")
    fused: str = free("auto", "fused optimiser; auto: on a GPU, and on a CPU for imitation", "auto|on|off")
    accumulation: int = free(1, "parts that a batch is computed in, one after the other; the step is the same", "> 0")
    num_learners: int = free(0, "learner actors that share each batch (data parallel); 0 learns in the driver", ">= 0")
    max_skipped: int = free(
        3, "updates in a row with a loss or gradient that is not finite, before the run stops", "> 0"
    )
    max_restarts: int = free(3, "learners replaced after their process or device failed, before the run stops", ">= 0")
