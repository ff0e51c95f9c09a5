"""What a recipe for images comes to: their network, groups of one shape, pairs of noise and image."""
