"""Hydra configuration groups; the typed schema is `common.config`."""
