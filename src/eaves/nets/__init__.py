"""Networks as named stages: our own, torchvision's and timm's, and a user's."""
