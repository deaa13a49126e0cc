"""Corrections for class sizes after a head was fitted without any; they cost no fit and add no operator.

For heads whose loss does not balance (`LossSpec.balances`): correcting twice favours the tail.

Shapes: D features, K classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nasimb.heads.head import ABSENT_LOGIT, Head


def logit_adjusted(head: Head, class_counts_K: Tensor, tau: float) -> Head:
    """z_k - tau log pi_k with pi_k = n_k / N, folded into the bias (Menon et al. 2021, equation 9).

    A linear head has a free bias, so at tau = 1 this is exactly what balanced softmax finds with the same penalty.
    Classes without training images stay unpredictable.
    """
    counts_K = torch.as_tensor(class_counts_K).to(head.bias_K)
    shift_K = torch.where(counts_K > 0, tau * (counts_K.clamp_min(1) / counts_K.sum()).log(), 0.0)
    return replace(head, bias_K=head.bias_K - shift_K)


def tau_normalised(head: Head, tau: float) -> Head:
    """w_k / ||w_k||^tau without bias, on standardised features (Kang et al. 2020, equation 6).

    The weights of a class with many images grow long; tau = 1 makes all equally long, tau = 0 only drops the bias. A
    cosine head's are equally long already, so only its bias would go, and it has none.
    """
    if head.scale is not None:
        return head
    weight_KD = head.weight_KD * head.std_D
    lengths_K = weight_KD.norm(dim=1)
    # A class without training images has no weight and keeps its bias.
    fitted_K = lengths_K > 0
    weight_KD = head.weight_KD / torch.where(fitted_K, lengths_K, 1.0)[:, None] ** tau
    bias_K = torch.where(fitted_K | (head.bias_K > ABSENT_LOGIT), -weight_KD @ head.mean_D, head.bias_K)
    return replace(head, weight_KD=weight_KD, bias_K=bias_K)
