"""SALMONN (2310.13289): the network, its prompts, data and published checkpoints. See the README beside this file."""
