import torch
from torch.nn import functional as F

from ssl_lightning.queue import Queue


def test_the_oldest_keys_are_replaced_in_order_and_around_the_end():
    queue = Queue(5, 2)
    untouched = queue.keys.clone()
    keys = torch.arange(14.0).view(7, 2)
    queue.enqueue(keys[:3])
    assert torch.equal(queue.keys[:3], keys[:3])
    assert torch.equal(queue.keys[3:], untouched[3:])
    queue.enqueue(keys[3:7])
    assert torch.equal(queue.keys, keys[[5, 6, 2, 3, 4]])
    assert queue.pointer == 2


def test_it_starts_with_unit_keys_and_is_saved():
    queue = Queue(6, 3)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(6))
    queue.enqueue(F.normalize(torch.randn(4, 3, dtype=torch.bfloat16), dim=1))
    assert queue.keys.dtype == torch.float32
    other = Queue(6, 3)
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.keys, queue.keys)
    assert other.pointer == 4
