"""Several processes: set-up under torchrun, sums over ranks, and wrapping a model so that gradients are shared."""
