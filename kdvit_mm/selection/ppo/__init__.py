"""A policy that chooses levels, learned by PPO, and its ablations."""
