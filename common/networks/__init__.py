"""The policy network (torch): matching, geometry, heads, their losses, and weights as numpy arrays."""

from common.networks.backbone import ImageFeatures
from common.networks.heads import TwistPrediction
from common.networks.servo_net import Encoding, ServoNet
from common.networks.weights import Weights, encoder_sha256, get_weights, set_weights

__all__ = [
    "Encoding",
    "ImageFeatures",
    "ServoNet",
    "TwistPrediction",
    "Weights",
    "encoder_sha256",
    "get_weights",
    "set_weights",
]
