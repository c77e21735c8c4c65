"""Archive to better weights, or a reasoned refusal."""
