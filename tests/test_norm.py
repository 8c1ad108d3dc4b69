import copy

import pytest
import torch
from torch import nn

from ssl_lightning.methods import MoCo
from ssl_lightning.norm import SplitBatchNorm2d, split_batch_norm
from tests.methods.tiny import data, make, trainer


def split(layer, splits):
    split_batch_norm(layer, splits)
    return layer


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_each_group_is_normalised_as_on_a_device_of_its_own(memory_format):
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3)
    nn.init.normal_(plain.weight)
    x = torch.randn(8, 3, 5, 4).to(memory_format=memory_format)
    layer = split(nn.Sequential(copy.deepcopy(plain)), 4)
    out = layer(x)
    devices = [copy.deepcopy(plain) for _ in range(4)]
    for g, device in enumerate(devices):
        torch.testing.assert_close(out[g::4], device(x[g::4]))
    torch.testing.assert_close(layer[0].running_var, torch.stack([d.running_var for d in devices]).mean(0))
    torch.testing.assert_close(layer[0].running_mean, torch.stack([d.running_mean for d in devices]).mean(0))
    assert layer[0].num_batches_tracked == 1


def test_the_state_dict_is_that_of_plain_batch_norm():
    layer = split(nn.Sequential(nn.BatchNorm2d(3)), 2)
    layer(torch.randn(4, 3, 2, 2))
    plain = nn.Sequential(nn.BatchNorm2d(3))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3, 2, 2)
    assert torch.equal(plain.eval()(x), layer.eval()(x))


def test_shuffled_keys_meet_other_statistics():
    """Negative control: with plain batch norm a shuffle changes nothing (so ShuffleBN on one device does nothing)."""
    torch.manual_seed(0)
    x, shuffle = torch.randn(8, 3, 4, 4), torch.tensor([3, 0, 6, 1, 7, 2, 5, 4])
    back = shuffle.argsort()
    plain, grouped = nn.Sequential(nn.BatchNorm2d(3)), split(nn.Sequential(nn.BatchNorm2d(3)), 4)
    torch.testing.assert_close(plain(x[shuffle])[back], plain(x))
    assert (grouped(x[shuffle])[back] - grouped(x)).abs().max() > 0.1


def test_moco_refuses_synchronised_batch_norm(tmp_path):
    model = make(MoCo)
    model.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(model.backbone)
    with pytest.raises(ValueError, match=r"bn_splits=2 .* drop --trainer\.sync_batchnorm"):
        trainer(tmp_path, max_steps=1).fit(model, data())


def test_a_batch_that_does_not_split_is_an_error():
    layer = split(nn.Sequential(nn.BatchNorm2d(3)), 4)
    assert isinstance(layer[0], SplitBatchNorm2d)
    with pytest.raises(ValueError, match="6 images does not split into bn_splits=4"):
        layer(torch.randn(6, 3, 2, 2))
    with pytest.raises(ValueError, match="at least 1"):
        split_batch_norm(layer, 0)
