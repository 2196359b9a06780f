"""The replay store: zarr v3 segments, create-only commit records, a rebuildable index, samplers with cursors."""
