"""Class weights, and the mean that uses them. Shapes: B images of a batch, K classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def inverse_frequency_weights(class_counts_K: Tensor) -> Tensor:
    """w_k = N / (K n_k): every class has the same total weight."""
    return class_counts_K.sum() / (len(class_counts_K) * class_counts_K)


def effective_number_weights(class_counts_K: Tensor, beta: float) -> Tensor:
    """w_k = 1 / E_k, E_k = (1 - beta^n_k) / (1 - beta), scaled so that sum_k w_k = K (Cui et al. 2019, equation 2)."""
    # 1 - beta^n through expm1: beta^n is close to 1 for small classes. beta 0 gives E = 1.
    log_beta = math.log(beta) if beta > 0 else -math.inf
    weights_K = -1.0 / torch.expm1(class_counts_K * log_beta)
    return weights_K * (len(weights_K) / weights_K.sum())


def mean_one(weights_K: Tensor, class_counts_K: Tensor) -> Tensor:
    """The weights scaled to mean 1 over the training images."""
    return weights_K * (class_counts_K.sum() / (weights_K * class_counts_K).sum())


def weighted_mean(terms_B: Tensor, labels_B: Tensor, weights_K: Tensor) -> Tensor:
    """Mean over the batch of w_y * term; see `Loss` for why it is not divided by the batch's weights."""
    return (weights_K.to(terms_B)[labels_B] * terms_B).mean()
