import ast
import zlib
from pathlib import Path

import pytest
import timm
import torch
from torchvision import models

from ssl_lightning.backbones import build, list_backbones, names
from ssl_lightning.backbones.stems import small_stem

ROWS = names.OWN | names.TORCHVISION | names.TIMM


def test_the_static_names_exist_in_the_libraries():
    assert set(names.OWN) == set(build.__globals__["OWN"])
    assert set(names.TORCHVISION) <= set(models.list_models(module=models))
    assert set(names.TIMM) <= set(timm.list_models())


def test_a_static_name_alone_means_the_library_it_is_listed_under():
    assert set(ROWS) <= set(list_backbones())
    assert len(ROWS) == len(names.OWN) + len(names.TORCHVISION) + len(names.TIMM)


FIRST = {"lenet5", "alexnet", "vgg16", "googlenet", "resnet18", "resnet20", "resnet50", "densenet121", "densenet264"}
FIRST |= {"mobilenetv1_100", "mobilenet_v2", "mobilenet_v3_small", "seresnet50", "senet154", "hrnet_w18"}
FIRST |= {"vit_tiny_patch16_224"}
SOME = [n for n in ROWS if n in FIRST or (zlib.crc32(n.encode()) % 6 == 0 and not n.startswith("regnet"))]


@pytest.mark.parametrize("name", SOME)
def test_a_row_says_what_build_makes(name):
    """Of one of every family and of one in six: all take a minute. `benchmarks/backbones.py --list` writes them."""
    _, parameters, features, smallest, stem = ROWS[name]
    with torch.device("meta"):  # on which the RegNets cannot be built
        large, small = build(name, image_size=max(smallest, 224)), build(name, image_size=smallest)
        below = [size for size in names.SIZES if size < smallest]
        if below:
            with pytest.raises(ValueError, match=r"image|Input size"):
                build(name, image_size=below[-1])
    assert (sum(p.numel() for p in large.parameters()), large.dim) == (parameters, features)
    assert small.small_stem == (bool(stem) and smallest <= names.SMALL_IMAGE)
    assert not stem or small_stem(large.net).words == stem


def test_every_row_has_a_year_and_its_numbers():
    for name, (year, parameters, features, smallest, _) in ROWS.items():
        assert 1998 <= year <= 2026, name
        assert parameters > 10_000, name
        assert 32 <= features <= 10_000, name
        assert smallest in names.SIZES, name


def test_the_table_imports_nothing():
    tree = ast.parse(Path(names.__file__).read_text())
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))
