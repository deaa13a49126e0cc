from __future__ import annotations

import pytest
import torch

from nasimb.data.transfer import send


def test_what_is_there_already_is_not_copied():
    tensor = torch.arange(3)
    assert send(tensor, torch.device("cpu")) is tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_sending_to_a_gpu_does_not_wait_for_it():
    torch.cuda.set_sync_debug_mode("error")
    try:
        sent = send(torch.arange(3), torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sent.tolist() == [0, 1, 2]
