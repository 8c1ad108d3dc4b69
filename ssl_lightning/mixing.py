"""Mixup and CutMix, by draws of each image.

Zhang, Cisse, Dauphin, Lopez-Paz, mixup: Beyond Empirical Risk Minimization, 2017, https://arxiv.org/abs/1710.09412
Yun, Han, Oh, Chun, Choe, Yoo, CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features,
2019, https://arxiv.org/abs/1905.04899
"""

import torch
from scipy.special import betaincinv
from torch import Tensor


def partners(n: int) -> Tensor:
    """Which image of a batch each is mixed with, (n,) int64: neighbours with each other, the last of an odd n alone.

    A process of several with an even number of images so mixes them as one with the whole batch does.
    """
    return (torch.arange(n) ^ 1).clamp(max=n - 1)


def own_shares(u: Tensor, size: int, mixup: float, cutmix: float, device: torch.device) -> Tensor:
    """How much of itself each image keeps at each pixel.

    Mixup: everywhere lambda ~ Beta(alpha, alpha). CutMix: nothing in a square of the area 1 - lambda, as far as it lies
    in the image, around a uniform pixel, and all outside. Where both are given, half of the images take each.

    Args:
        u: (B, 4) random numbers in [0, 1) on the CPU.
        size: Side of the images in pixels.
        mixup: Its alpha; 0: no mixup.
        cutmix: Its alpha; 0: no CutMix. One of the two must be above 0.
        device: Where the images are.

    Returns:
        (B, size, size) float32 in [0, 1]; the mean over the pixels is the image's share of its target.
    """
    cut = u[:, 0] < (0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = torch.where(cut, cutmix, mixup).double()
    kept = torch.from_numpy(betaincinv(alpha.numpy(), alpha.numpy(), u[:, 1].double().numpy()))
    side = ((1 - kept).sqrt() * size).floor()[:, None]
    middle = (u[:, 2:].double() * size).floor()
    low, high = middle - (side / 2).floor(), middle + ((side + 1) / 2).floor()
    numbers = torch.cat([cut[:, None], kept[:, None], low, high], 1).float().to(device, non_blocking=True)
    drawn, share, top, left, bottom, right = numbers[..., None].unbind(1)  # (B, 1) each
    pixel = torch.arange(size, device=device)
    rows = (pixel >= top) & (pixel < bottom)  # (B, size)
    columns = (pixel >= left) & (pixel < right)
    outside = ~(rows[:, :, None] & columns[:, None])
    return torch.where(drawn[..., None] > 0, outside.float(), share[..., None])
