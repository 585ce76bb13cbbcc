"""Train and run one neural network divided between an edge device and a cloud."""

__version__ = "0.1.0"
