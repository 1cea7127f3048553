"""Train one run and measure it exactly: `RunSpec` in, scaling points out."""
