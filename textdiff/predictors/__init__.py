"""Adapters around networks: what turns a model into a predictor, and what shapes its predictions."""
