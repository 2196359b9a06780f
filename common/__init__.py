"""What every part shares: frames and SE(3), servo laws, the episode record, randomness, protocols, config, networks.

This package imports nothing of ours. Everything except `config` and `networks` also imports without torch, ray or
mlflow, because the render service runs in environments that pin their own.
"""
