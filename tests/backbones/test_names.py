import ast
from pathlib import Path

import timm
from torchvision import models

from ssl_lightning.backbones import build, list_backbones, names


def test_the_static_names_exist_in_the_libraries():
    assert set(names.OWN) == set(build.__globals__["OWN"])
    assert set(names.TORCHVISION) <= set(models.list_models(module=models))
    assert set(names.TIMM) <= set(timm.list_models())


def test_a_static_name_alone_means_the_library_it_is_listed_under():
    assert set(names.OWN + names.TORCHVISION + names.TIMM) <= set(list_backbones())
    assert len(set(names.OWN + names.TORCHVISION + names.TIMM)) == len(names.OWN + names.TORCHVISION + names.TIMM)


def test_the_table_imports_nothing():
    tree = ast.parse(Path(names.__file__).read_text())
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))
