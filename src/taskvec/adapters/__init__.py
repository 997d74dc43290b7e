"""LoRA adapters: their configuration, what of the base they move, and the factored displacement they are."""
