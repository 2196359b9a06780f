"""Folders with tiny models of the foundation kinds, as `save_pretrained` writes them."""

import torch

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "dinov2_b": ("Dinov2", {"patch_size": 14, "image_size": 56}),
    "dinov3_b": ("DINOv3ViT", {"patch_size": 16, "intermediate_size": 32, "num_register_tokens": 2}),
    "cradio_b": ("Radio", {"patch_size": 16, "max_img_size": 128}),
}


def save_tiny(folder, backbone, seed=0, **changes):
    """Write a tiny model with random weights to `folder`; returns it."""
    import transformers

    name, settings = KINDS[backbone]
    config = getattr(transformers, f"{name}Config")(**SMALL | settings | changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{name}Model")(config)
        for parameter in model.parameters():  # what starts at zero or one would hide a mistake
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model.eval()
