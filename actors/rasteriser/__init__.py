"""The embedded renderer: a batched rasteriser on NVIDIA Warp."""
