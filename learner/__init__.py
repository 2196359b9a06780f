"""Phases (one file per loss), the training step, checkpoints, evaluation, reports and MLflow."""
