"""One case of speed.py with stable-pretraining, in an environment of its own: a block of steps for every line read.

Started by speed.py: python speed_peer.py cpu|device NETWORK SIZE SIDE BATCH STEPS BF16
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import stable_pretraining as spt
import torch
from PIL import Image
from stable_pretraining.data import gpu_transforms as on_device
from stable_pretraining.data import transforms
from stable_pretraining.methods.simclr import SimCLR
from torch import Tensor, nn
from torch.utils.data import DataLoader

kind, network = sys.argv[1:3]
size, side, batch, steps = map(int, sys.argv[3:7])
bf16 = sys.argv[7] == "True"
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
SMALL = size < 64
STRENGTH = 0.5 if SMALL else 1.0
JITTER = [0.8 * STRENGTH, 0.8 * STRENGTH, 0.8 * STRENGTH, 0.2 * STRENGTH]
KERNEL = 2 * (int(0.1 * size) // 2) + 1


def synchronize() -> float:
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def of_one_image() -> Any:
    blur = [] if SMALL else [transforms.PILGaussianBlur(p=0.5)]
    return transforms.Compose(
        transforms.RandomResizedCrop((size, size), scale=(0.08, 1.0), interpolation=3),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ColorJitter(*JITTER, p=0.8),
        transforms.RandomGrayscale(p=0.2),
        *blur,
        transforms.ToImage(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    )


def of_a_batch() -> nn.Module:
    blur = [] if SMALL else [on_device.GPUGaussianBlur(KERNEL, (0.1, 2.0), p=0.5)]
    return on_device.GPUCompose(
        [
            on_device.GPURandomResizedCrop((size, size), scale=(0.08, 1.0)),
            on_device.GPURandomHorizontalFlip(p=0.5),
            on_device.GPUColorJitter(*JITTER, p=0.8),
            on_device.GPURandomGrayscale(p=0.2),
            *blur,
            on_device.GPUNormalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ],
        compile=False,
    )


class Pictures(torch.utils.data.Dataset[dict[str, Any]]):
    """Random pixels: as Pillow's pictures through two transforms, or as float tensors for the device."""

    def __init__(self) -> None:
        shape = ((steps + 1) * batch, side, side, 3)
        self.pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self.transform = of_one_image()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if kind == "device":
            return {"image": torch.from_numpy(self.pixels[i]).permute(2, 0, 1).float() / 255}
        picture = Image.fromarray(self.pixels[i])
        return {f"view{k}": self.transform({"image": picture})["image"] for k in range(2)}


def build() -> SimCLR:
    torch.manual_seed(0)
    if network.startswith("resnet"):
        net = spt.backbone.from_torchvision(network, low_resolution=SMALL)
        net.fc = nn.Identity()
    else:
        net = network
    dims = {"resnet18": 512, "resnet50": 2048, "vit_small_patch16_224": 384}[network]
    return SimCLR(net, projector_dims=(dims, 128), temperature=0.1).to(DEVICE)


def peak_megabytes() -> float:
    if CUDA:
        return torch.cuda.max_memory_allocated() / 1e6
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def views_of(item: dict[str, Any], chain: nn.Module | None) -> Iterator[Tensor]:
    for k in range(2):
        if chain is None:
            yield item[f"view{k}"].to(DEVICE, non_blocking=True)
        else:
            yield chain({"image": item["image"].to(DEVICE, non_blocking=True)})["image"]


def block(model: SimCLR, pictures: Pictures, chain: nn.Module | None) -> float:
    loader = DataLoader(pictures, batch, num_workers=os.cpu_count() or 1, pin_memory=CUDA, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    began = 0.0
    for i, item in enumerate(loader):
        view0, view1 = views_of(item, chain)
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            loss = model(view0, view1).loss
        loss.backward()
        optimizer.step()
        if i == 0:
            began = synchronize()
    return (synchronize() - began) / steps


if __name__ == "__main__":
    model, pictures = build(), Pictures()
    chain = of_a_batch() if kind == "device" else None
    for _ in sys.stdin:
        print(json.dumps({"seconds": block(model, pictures, chain), "megabytes": peak_megabytes()}), flush=True)
